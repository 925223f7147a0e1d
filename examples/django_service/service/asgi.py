"""For uvicorn: ``uvicorn service.asgi:application``."""

import os

from django.core.asgi import get_asgi_application

from ephemeral_creds.contrib.django.asgi import revoke_at_shutdown

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "service.settings")
application = revoke_at_shutdown(get_asgi_application())
