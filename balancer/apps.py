"""The application as Django knows it."""

from django.apps import AppConfig


class BalancerConfig(AppConfig):
    name = "balancer"
    verbose_name = "Load balancing"
    default_auto_field = "django.db.models.BigAutoField"
