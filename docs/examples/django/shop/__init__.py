"""An application: what it tells of its orders is in `signals` and `management`."""
