"""Views."""

from django.http import HttpRequest, JsonResponse

from jobs.models import Job


def add(request: HttpRequest) -> JsonResponse:
    """Note a job."""
    job = Job.objects.create(payload=request.GET["payload"])
    return JsonResponse({"id": job.pk})


def show(request: HttpRequest, number: int) -> JsonResponse:  # noqa: ARG001 - a view's signature
    """Show a job."""
    return JsonResponse({"payload": Job.objects.get(pk=number).payload})
