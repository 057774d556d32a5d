"""The groups Viewer, Editor, Approver, Operator and Administrator."""

from django.db import migrations

from balancer.models.roles import install_roles


def forwards(apps, schema_editor):
    install_roles(apps=apps, alias=schema_editor.connection.alias)


class Migration(migrations.Migration):
    dependencies = [
        ("balancer", "0002_append_only"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    # Backwards leaves the groups: people are in them.
    operations = [migrations.RunPython(forwards, migrations.RunPython.noop)]
