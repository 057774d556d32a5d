"""Celery's settings. A message is a hint that a row waits; nothing here makes it more than that."""

from django.conf import settings

from lbadmin.broker import broker_settings, options

globals().update(broker_settings(settings.LBADMIN_REDIS_URL))
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_transport_options = options()

# Nothing that cannot be written as JSON is taken or sent; pickle would run code.
accept_content = ["json"]
task_serializer = "json"
result_accept_content = ["json"]
task_ignore_result = True
result_backend = None
task_protocol = 2
task_default_queue = "node.unassigned"

# A message is acknowledged when it is taken. A lost one is found again in the rows, never by redelivery.
task_acks_late = False
worker_prefetch_multiplier = 1
worker_concurrency = 1
worker_pool = "prefork"
worker_cancel_long_running_tasks_on_connection_loss = False

worker_enable_remote_control = False
worker_send_task_events = False
task_send_sent_event = False
worker_hijack_root_logger = False

beat_scheduler = "lbadmin.schedule:NodeScheduler"

enable_utc = True
timezone = "UTC"
