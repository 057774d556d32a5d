"""Celery's settings. A message is a hint that a row waits; nothing here makes it more than that."""

from django.conf import settings

broker_url = settings.LBADMIN_REDIS_URL
broker_connection_retry_on_startup = True
broker_transport_options = {"socket_connect_timeout": 5, "socket_timeout": 30}

# Nothing that cannot be written as JSON is taken or sent; pickle would run code.
accept_content = ["json"]
task_serializer = "json"
result_accept_content = ["json"]
task_ignore_result = True
result_backend = None
task_protocol = 2

# Only queues named here or on the worker's command line exist; a typing error does not make a new one.
task_create_missing_queues = True
task_default_queue = "node.unassigned"

# A message is acknowledged when it is taken. A lost one is found again in the rows, never by redelivery.
task_acks_late = False
worker_prefetch_multiplier = 1
worker_concurrency = 1
worker_pool = "prefork"

worker_enable_remote_control = False
worker_send_task_events = False
task_send_sent_event = False
worker_hijack_root_logger = False
worker_cancel_long_running_tasks_on_connection_loss = False

enable_utc = True
timezone = "UTC"
