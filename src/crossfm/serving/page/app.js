// The page of a server: a query in, the ranking out, and why. It talks to /model, /values,
// /recommend, /predict and /explain, and keeps what is asked in the address.

const $ = (id) => document.getElementById(id);
const wait = 150; // ms after the last key before the server is asked
const terms = 14; // shown of a score, the rest in one line

const state = { model: null, places: new Map(), chosen: null, asked: 0 };

// --- the server ----------------------------------------------------------------------------------

async function ask(path, body) {
  const headers = {};
  const token = sessionStorage.getItem("crossfm-token");
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer. It may have ended; reload the page to try again.");
  }
  if (answer.status === 401) {
    await askToken();
    return ask(path, body);
  }
  const found = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(found?.error?.message ?? `The server answered ${answer.status}.`);
  return found;
}

function askToken() {
  const dialog = $("ask-token");
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("crossfm-token", $("token").value);
      $("token").value = "";
      resolve();
    }, { once: true });
    dialog.showModal();
  });
}

function tell(error) {
  $("problem").textContent = error ? error.message : "";
  $("problem").hidden = !error;
}

// --- the query -----------------------------------------------------------------------------------

function asked() {
  return state.model.fields.filter((field) => field.side !== "item");
}

function makeControls() {
  for (const field of asked()) {
    const label = make("label", { textContent: field.name, htmlFor: `field-${field.name}` });
    const input = make("input", { id: `field-${field.name}`, name: field.name });
    if (field.kind === "numeric") {
      input.type = "number";
      input.step = "any";
    } else {
      const list = make("datalist", { id: `values-${field.name}` });
      input.setAttribute("list", list.id);
      input.placeholder = field.kind === "bag" ? `several, with ${field.sep ?? ","} between` : "any";
      input.addEventListener("focus", () => suggest(field, input, list));
      input.addEventListener("input", () => suggest(field, input, list));
      label.append(list);
    }
    label.append(input);
    $("controls").append(label);
  }
}

async function suggest(field, input, list) {
  if (field.n_values === null) return;
  const between = field.sep ?? ",";
  const parts = field.kind === "bag" ? input.value.split(between) : [input.value];
  const prefix = parts.pop().trim();
  const before = parts.map((part) => part.trim() + between).join("");
  const path = `/values/${encodeURIComponent(field.name)}?limit=12&prefix=${encodeURIComponent(prefix)}`;
  const found = await ask(path).catch(() => ({ values: [] }));
  list.replaceChildren(...found.values.map((value) => make("option", { value: `${before}${value}` })));
}

function valueOf(field) {
  const text = $(`field-${field.name}`).value.trim();
  if (text === "") return field.kind === "bag" ? (field.sep === null ? [] : "") : null;
  if (field.kind === "numeric") return Number(text);
  if (field.kind !== "bag" || field.sep !== null) return text;
  return text.split(",").map((part) => part.trim()).filter(Boolean);
}

function query() {
  const record = {};
  for (const field of asked()) {
    const value = valueOf(field);
    record[field.name] = value;
    const weights = field.columns[1];
    if (weights) record[weights] = Array.isArray(value) ? value.map(() => 1) : value && value.split(field.sep).map(() => 1).join(field.sep);
  }
  return record;
}

// --- the ranking ---------------------------------------------------------------------------------

async function rank() {
  const number = ++state.asked;
  $("status").textContent = "Asking…";
  const began = performance.now();
  const columns = state.model.items.columns.filter((name) => name !== state.model.items.id);
  let found;
  try {
    const k = Math.min(Number($("count").value), state.model.limits.k);
    found = await ask("/recommend", { query: query(), k, columns });
  } catch (error) {
    if (number !== state.asked) return;
    tell(error);
    $("status").textContent = "";
    return;
  }
  if (number !== state.asked) return; // a later query is on its way
  tell(null);
  show(found);
  const n = found.ids.length;
  const ms = Math.max(1, Math.round(performance.now() - began));
  $("status").textContent = n ? `${n} of ${state.model.items.n_items.toLocaleString("en")} in ${ms} ms` : "No items";
  if (state.chosen !== null) explain();
}

function show(found) {
  const list = $("items");
  const old = new Map([...list.children].map((row) => [row.dataset.id, row.getBoundingClientRect().top]));
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  const before = state.places;
  state.places = new Map(found.ids.map((id, place) => [key(id), place]));
  const most = Math.max(...found.scores), least = Math.min(...found.scores);
  const rows = found.ids.map((id, place) => {
    const row = make("li", { role: "option", tabIndex: -1 });
    row.dataset.id = key(id);
    row.item = id;
    const name = make("span", { className: "name", textContent: nameOf(found, place) });
    const more = moreOf(found, place);
    if (more) name.append(make("span", { className: "more-columns", textContent: more }));
    const score = make("span", { className: "score", textContent: shown(found.scores[place]) });
    score.style.setProperty("--share", most > least ? 0.08 + 0.92 * (found.scores[place] - least) / (most - least) : 1);
    row.append(
      make("span", { className: "rank", textContent: place + 1 }), name,
      moveOf(before, key(id), place), score,
    );
    row.setAttribute("aria-selected", state.chosen !== null && key(state.chosen) === key(id));
    return row;
  });
  list.replaceChildren(...rows);
  const first = rows.find((row) => row.dataset.id === focused) ?? rows[0];
  if (first) first.tabIndex = 0;
  if (focused !== null && first) first.focus();
  slide(rows, old);
}

// Rows glide from where they were to where they are.
function slide(rows, old) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const row of rows) {
    const from = old.get(row.dataset.id);
    if (from === undefined) continue;
    const way = from - row.getBoundingClientRect().top;
    if (way) row.animate([{ transform: `translateY(${way}px)` }, { transform: "none" }], { duration: 250, easing: "ease-out" });
  }
}

function moveOf(before, id, place) {
  const mark = make("span", { className: "move" });
  if (!before.size) return mark;
  const was = before.get(id);
  if (was === undefined) {
    mark.textContent = "new";
    mark.classList.add("up");
  } else if (was !== place) {
    const up = was > place;
    mark.textContent = `${up ? "▲" : "▼"} ${Math.abs(was - place)}`;
    mark.classList.add(up ? "up" : "down");
    mark.setAttribute("aria-label", `${up ? "up" : "down"} ${Math.abs(was - place)}`);
  }
  return mark;
}

function nameColumn(columns) {
  const names = Object.keys(columns).filter((name) => columns[name].some((value) => typeof value === "string"));
  return names.find((name) => /^(title|name|label)$/i.test(name)) ?? names[0];
}

function nameOf(found, place) {
  const column = nameColumn(found.columns);
  return String((column && found.columns[column][place]) ?? found.ids[place]);
}

function moreOf(found, place) {
  const own = nameColumn(found.columns);
  const parts = Object.entries(found.columns).filter(([name, values]) => name !== own && values[place] !== null)
    .map(([name, values]) => Array.isArray(values[place]) ? values[place].join(", ") : typeof values[place] === "string" ? values[place] : `${name} ${values[place]}`)
    .filter(Boolean);
  if (own) parts.unshift(`${state.model.items.id} ${found.ids[place]}`);
  return parts.slice(0, 4).join(" · ");
}

// --- why -----------------------------------------------------------------------------------------

async function explain() {
  const body = state.model.items ? { query: query(), item: state.chosen } : { row: query() };
  let found;
  try {
    found = await ask("/explain", { ...body, top: terms });
  } catch (error) {
    tell(error);
    return;
  }
  tell(null);
  const row = [...$("items").children].find((one) => key(one.item) === key(state.chosen));
  const name = row?.querySelector(".name")?.firstChild.textContent;
  $("why-title").textContent = state.model.items ? `Why ${name ?? `${state.model.items.id} ${state.chosen}`}` : `Prediction ${shown(found.prediction)}`;
  const logit = state.model.task === "classification" ? ", in log odds" : "";
  $("why-sum").textContent = `Score ${signed(found.score).replace("+", "")}${logit}: the sum of these.`;
  const listed = [
    { name: "bias", value: found.bias },
    ...found.linear.map((one) => ({ name: one.feature, value: one.value })),
    ...found.pairs.map((one) => ({ name: one.features.join(" × "), value: one.value })),
  ];
  const [bias, ...others] = listed;
  others.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  if (found.rest) others.push({ name: "all others", value: found.rest });
  fill($("terms").tBodies[0], [bias, ...others], Math.max(...others.map((one) => Math.abs(one.value))));
  const total = make("tr");
  total.append(make("td", { textContent: "score" }), make("td", { textContent: signed(found.score) }), make("td"));
  $("terms").tFoot.replaceChildren(total);
  const fields = [
    ...found.by_field.fields.map((name, at) => ({ name, value: found.by_field.linear[at] })),
    ...found.by_field.pairs.map(([a, b, value]) => ({ name: `${a} × ${b}`, value })),
  ].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  fill($("fields").tBodies[0], fields, Math.max(...fields.map((one) => Math.abs(one.value))));
  $("why").hidden = false;
  document.querySelector("main").classList.add("explaining");
}

function fill(body, lines, most) {
  body.replaceChildren(...lines.map(({ name, value }) => {
    const row = make("tr");
    const bar = make("td", { className: "bar" });
    if (name !== "bias" && most > 0) {
      const span = make("span", { className: value < 0 ? "minus" : "plus" });
      span.style.setProperty("--share", Math.min(1, Math.abs(value) / most));
      bar.append(span);
    }
    row.append(make("td", { textContent: name }), make("td", { textContent: signed(value) }), bar);
    return row;
  }));
}

function choose(id, focus) {
  state.chosen = id;
  mark();
  remember(true);
  explain().then(() => {
    if (focus) $("why-title").focus();
    else $("why").scrollIntoView({ block: "nearest" });
  });
}

function close() {
  if ($("why").hidden || !state.model.items) return;
  const id = state.chosen;
  state.chosen = null;
  $("why").hidden = true;
  document.querySelector("main").classList.remove("explaining");
  mark();
  remember(true);
  [...$("items").children].find((row) => key(row.item) === key(id))?.focus();
}

function mark() {
  for (const row of $("items").children) {
    row.setAttribute("aria-selected", state.chosen !== null && key(row.item) === key(state.chosen));
  }
}

// --- the address ---------------------------------------------------------------------------------

function remember(push) {
  const words = new URLSearchParams();
  for (const field of asked()) {
    const text = $(`field-${field.name}`).value.trim();
    if (text) words.set(field.name, text);
  }
  if ($("count").value !== "20") words.set("items", $("count").value);
  if (state.chosen !== null) words.set("why", JSON.stringify(state.chosen));
  const address = `${location.pathname}${words.size ? "?" : ""}${words}`;
  if (address === location.pathname + location.search) return;
  history[push ? "pushState" : "replaceState"](null, "", address);
}

function recall() {
  const words = new URLSearchParams(location.search);
  for (const field of asked()) $(`field-${field.name}`).value = words.get(field.name) ?? "";
  const count = words.get("items") ?? "20";
  if ([...$("count").options].some((option) => option.value === count)) $("count").value = count;
  try {
    state.chosen = words.has("why") ? JSON.parse(words.get("why")) : null;
  } catch {
    state.chosen = null;
  }
}

// --- small things --------------------------------------------------------------------------------

function make(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

function key(id) {
  return JSON.stringify(id);
}

function shown(number) {
  if (typeof number !== "number") return String(number);
  if (number !== 0 && (Math.abs(number) < 0.001 || Math.abs(number) >= 1e5)) return number.toExponential(2);
  return number.toFixed(3);
}

function signed(number) {
  return `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(4)}`;
}

// The button names the other theme.
function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  $("theme").textContent = dark() ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", `Use the ${dark() ? "light" : "dark"} theme`);
}

function dark() {
  const set = document.documentElement.dataset.theme;
  return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// --- the beginning -------------------------------------------------------------------------------

async function changed() {
  if (!state.model.items) return;
  remember(false);
  await rank();
}

function listen() {
  let timer = 0;
  $("query").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(changed, wait);
  });
  $("query").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    if (state.model.items) changed();
    else {
      remember(true);
      explain();
    }
  });
  $("items").addEventListener("click", (event) => {
    const row = event.target.closest("li");
    if (row) choose(row.item, false);
  });
  $("items").addEventListener("keydown", (event) => {
    const rows = [...$("items").children];
    const at = rows.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to !== undefined && rows[to]) {
      rows[at].tabIndex = -1;
      rows[to].tabIndex = 0;
      rows[to].focus();
      event.preventDefault();
    } else if ((event.key === "Enter" || event.key === " ") && rows[at]) {
      choose(rows[at].item, true);
      event.preventDefault();
    }
  });
  $("close").addEventListener("click", close);
  addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  addEventListener("popstate", () => {
    recall();
    if (state.chosen === null) {
      $("why").hidden = true;
      document.querySelector("main").classList.remove("explaining");
    }
    if (state.model.items) rank();
  });
  $("theme").addEventListener("click", () => {
    const next = dark() ? "light" : "dark";
    localStorage.setItem("crossfm-theme", next);
    theme(next);
  });
}

async function begin() {
  const kept = localStorage.getItem("crossfm-theme");
  theme(kept === "dark" || kept === "light" ? kept : null);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(null));
  try {
    state.model = await ask("/model");
  } catch (error) {
    $("model").textContent = "";
    tell(error);
    return;
  }
  const { model } = state;
  $("model").textContent = `${model.estimator ?? model.kind} · ${model.n_features.toLocaleString("en")} features × ${model.n_factors} factors · version ${model.version}`;
  makeControls();
  recall();
  listen();
  const first = asked()[0];
  if (model.items) {
    $("ranking").hidden = false;
    if (first && !location.search && first.kind !== "numeric" && first.n_values) {
      const found = await ask(`/values/${encodeURIComponent(first.name)}?limit=1`).catch(() => ({ values: [] }));
      if (found.values.length) $(`field-${first.name}`).value = found.values[0];
    }
    await rank();
  } else {
    $("query-title").textContent = "A row";
    $("predict").hidden = false;
    $("count-label").hidden = true;
    $("close").hidden = true;
  }
}

begin();
