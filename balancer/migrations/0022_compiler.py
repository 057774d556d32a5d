"""Which compiler made the rulesets of a revision: of all that there are, the first."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("balancer", "0021_drift")]

    operations = [
        migrations.AddField(
            model_name="revision",
            name="compiler",
            field=models.PositiveIntegerField(default=1),
        ),
    ]
