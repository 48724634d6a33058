"""The daemon: one durable log, many cursors."""
