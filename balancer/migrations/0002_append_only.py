"""The database itself refuses to change history, whoever asks.

A later migration that alters one of these tables on SQLite makes Django copy the table, and the copy has
no triggers: call `install` again at its end (tests/workflow/test_audit.py notices where one forgets).
"""

from django.db import migrations

from balancer.models.history import install, uninstall


def forwards(apps, schema_editor):
    install(connection=schema_editor.connection)


def backwards(apps, schema_editor):
    uninstall(connection=schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = [("balancer", "0001_initial")]

    operations = [migrations.RunPython(forwards, backwards)]
