from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("balancer", "0022_compiler")]

    operations = [
        migrations.AddField(
            model_name="node",
            name="leaving",
            field=models.JSONField(blank=True, default=dict, editable=False),
        ),
        migrations.AddField(
            model_name="node",
            name="leaving_at",
            field=models.DateTimeField(editable=False, null=True),
        ),
    ]
