"""The one error that ends the demo early."""


class DemoError(Exception):
    """Something that the demo stands on does not run; the text says what and why."""
