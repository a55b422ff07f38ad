"""From columns to Rows: fields, schema, readers."""
