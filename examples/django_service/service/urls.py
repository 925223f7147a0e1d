"""What the service answers to."""

from django.urls import path
from jobs import views

urlpatterns = [path("jobs", views.add), path("jobs/<int:number>", views.show)]
