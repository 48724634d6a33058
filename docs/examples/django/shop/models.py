"""An order, as an integration writes it."""

from django.db import models


class Order(models.Model):
    """One order of a business's shop."""

    integration_id = models.PositiveBigIntegerField()
    business_id = models.PositiveBigIntegerField()
    external_id = models.CharField(max_length=64)
    number = models.CharField(max_length=64)
    status = models.CharField(max_length=32)
    total = models.DecimalField(max_digits=12, decimal_places=2)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.number
