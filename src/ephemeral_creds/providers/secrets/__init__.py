"""Secret managers of clouds, which keep user name and password, and versions of both."""
