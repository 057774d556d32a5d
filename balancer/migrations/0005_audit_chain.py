"""Audit events become a chain; those that are there already are chained in the order of their keys.

What they are chained as is what they are at this moment: nobody can say what happened to them before.
"""

from django.db import migrations, models

from balancer.domain.chain import GENESIS, Event, hash_event
from balancer.models.history import install, uninstall

HASHED = (
    "at",
    "actor_id",
    "actor_name",
    "source",
    "action",
    "object_type",
    "object_id",
    "object_label",
    "facts",
)


def open_history(apps, schema_editor):
    uninstall(connection=schema_editor.connection)


def close_history(apps, schema_editor):
    install(connection=schema_editor.connection)


def chain_events(apps, schema_editor):
    events = apps.get_model("balancer", "AuditEvent").objects.using(schema_editor.connection.alias)
    previous = GENESIS
    # The keys first: SQLite promises nothing about a read that goes on while its rows are updated.
    for number, pk in enumerate(list(events.order_by("pk").values_list("pk", flat=True)), start=1):
        row = events.get(pk=pk)
        content = {name: getattr(row, name) for name in HASHED}
        hash_ = hash_event(Event(number=number, previous=previous, **content))
        events.filter(pk=pk).update(number=number, previous=previous, hash=hash_)
        previous = hash_


class Migration(migrations.Migration):
    dependencies = [("balancer", "0004_node_enabled")]

    operations = [
        migrations.RunPython(open_history, close_history),
        migrations.AddField(
            model_name="auditevent",
            name="source",
            field=models.CharField(blank=True, default="", max_length=64),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="auditevent",
            name="number",
            field=models.PositiveBigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name="auditevent",
            name="previous",
            field=models.CharField(default="", max_length=64),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="auditevent",
            name="hash",
            field=models.CharField(default="", max_length=64),
            preserve_default=False,
        ),
        migrations.RunPython(chain_events, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="auditevent",
            name="number",
            field=models.PositiveBigIntegerField(unique=True),
        ),
        migrations.RunPython(close_history, open_history),
    ]
