"""What every fit has: a history, validation after each epoch, an answer to Ctrl-C."""

from __future__ import annotations

from crossfm.fitting.fingerprint import fingerprint
from crossfm.fitting.history import Epoch, History, Progress, Watch
from crossfm.fitting.interrupts import Interrupts

__all__ = ["Epoch", "History", "Interrupts", "Progress", "Watch", "fingerprint"]
