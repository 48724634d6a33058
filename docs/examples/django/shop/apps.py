"""The application: it connects the signals."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Begins to publish when Django is ready."""

    name = "shop"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect what publishes."""
        from shop import signals  # noqa: F401 - the import connects
