"""The application as Django knows it."""

import gc

from django.apps import AppConfig
from django.core.checks import register


class BalancerConfig(AppConfig):
    name = "balancer"
    verbose_name = "Load balancing"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Here, not above: it reads the settings.
        from lbadmin.syslog import check_syslog

        register(check_syslog)
        gc.freeze()  # all models are loaded by now, see lbadmin/__init__.py
