"""The `mill` command: one file per noun. Speaks to milld through `mill.client` only, and knows nothing of the daemon's side."""
