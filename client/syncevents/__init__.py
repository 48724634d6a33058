"""Publish order-sync events to synceventsd."""
