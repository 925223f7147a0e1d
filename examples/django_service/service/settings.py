"""Settings; all that is about credentials is in ``OPTIONS``."""

import os

SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["jobs"]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "service.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

DATABASES = {
    "default": {
        "ENGINE": "ephemeral_creds.contrib.django",
        "HOST": os.environ["DB_HOST"],
        "PORT": os.environ.get("DB_PORT", ""),
        "NAME": os.environ["DB_NAME"],
        "CONN_MAX_AGE": int(os.environ.get("DB_AGE", "0")),
        "OPTIONS": {
            # vault://my-app-role?auth=kubernetes&auth_role=my-app for example, without a secret.
            "credentials": os.environ["EPHEMERAL_CREDS_URL"],
            # The role that tables belong to; the minted roles are members of it.
            "assume_role": os.environ["DB_OWNER"],
            # Without it, CONN_MAX_AGE decides, as with Django's own backend.
            "rotating_pool": os.environ.get("DB_POOL") == "1" and {"min_size": 1, "max_size": 5},
        },
    }
}
