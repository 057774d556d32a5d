"""Which compiler made the rulesets of a revision: of all that there are, the first."""

from django.db import migrations, models

from balancer.models import history


def let_go(apps, schema_editor):
    history.uninstall(connection=schema_editor.connection)


def hold_again(apps, schema_editor):
    """On SQLite the table of revisions was copied, and the copy has no triggers."""
    history.install(connection=schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = [("balancer", "0021_drift")]

    operations = [
        migrations.RunPython(let_go, hold_again),
        migrations.AddField(
            model_name="revision",
            name="compiler",
            field=models.PositiveIntegerField(default=1),
        ),
        migrations.RunPython(hold_again, let_go),
    ]
