"""Tables."""

from django.db import models


class Job(models.Model):
    """Something to do."""

    payload = models.TextField()
