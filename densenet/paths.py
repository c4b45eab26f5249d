"""Where the files of the checkout are: the one place that knows. What it imports is light: a probe asks, too."""

from export import DEFAULT_FOLDER, IMAGENET_CLASSES, PHOTOS, ROOT

__all__ = ["BUILD", "CONFIG", "IMAGENET_CLASSES", "LOGS", "NGINX_TEMPLATES", "PHOTO", "PHOTOS", "ROOT", "RUN"]

BUILD = DEFAULT_FOLDER
CONFIG = ROOT / "config.properties"
LOGS = ROOT / "logs"
NGINX_TEMPLATES = ROOT / "deploy" / "nginx"
PHOTO = PHOTOS / "cat.jpg"
RUN = ROOT / ".run"
