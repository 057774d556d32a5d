"""Addresses: the console is the admin, at the root."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path


def answer_alive(request: HttpRequest) -> HttpResponse:
    """Says that the web process answers; touches nothing, needs no login."""
    return HttpResponse("ok\n", content_type="text/plain")


admin.autodiscover()
urlpatterns = [
    path("healthz", answer_alive, name="healthz"),
    path("", admin.site.urls),
]
