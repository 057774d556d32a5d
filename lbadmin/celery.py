"""The Celery application: JSON only, no results, no remote control, one queue per node."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "lbadmin.settings")

app = Celery("lbadmin", set_as_current=True)
app.config_from_object("lbadmin.celeryconfig")
app.autodiscover_tasks(["balancer"])
