"""Decisions without I/O: nothing in here knows trio, SQLite, Redis, Quart, the clock or logging."""
