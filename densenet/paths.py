"""The paths of the checkout's files. The probe imports this module every few seconds, so its imports must be cheap."""

from export import DEFAULT_FOLDER, IMAGENET_CLASSES, PHOTOS, ROOT

__all__ = ["BUILD", "CONFIG", "IMAGENET_CLASSES", "LOGS", "NGINX_TEMPLATES", "PHOTO", "PHOTOS", "ROOT", "RUN"]

BUILD = DEFAULT_FOLDER
CONFIG = ROOT / "config.properties"
LOGS = ROOT / "logs"
NGINX_TEMPLATES = ROOT / "deploy" / "nginx"
PHOTO = PHOTOS / "cat.jpg"
RUN = ROOT / ".run"
