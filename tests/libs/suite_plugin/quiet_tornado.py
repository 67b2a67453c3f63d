"""A plugin of pytest: tornado's own test runner keeps this logger silent too."""

import logging

logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
