"""Tests, which ``python manage.py test`` runs in a database of their own."""

from django.test import TestCase, TransactionTestCase

from jobs.models import Job


class JobTest(TestCase):
    """In a transaction."""

    def test_it_is_shown(self) -> None:
        """A job that was added is shown."""
        number = self.client.post("/jobs?payload=x").json()["id"]
        assert self.client.get(f"/jobs/{number}").json() == {"payload": "x"}


class TimeZoneTest(TransactionTestCase):
    """Without one; with a setting for which Django reconfigures connections."""

    def test_it_counts(self) -> None:
        """A job that was added is counted."""
        Job.objects.create(payload="x")
        with self.settings(TIME_ZONE="Asia/Tokyo", USE_TZ=False):
            assert Job.objects.count() == 1
