"""The first table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Makes the table of jobs."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            "Job",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("payload", models.TextField()),
            ],
        ),
    )
