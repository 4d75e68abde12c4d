import logging

_log = logging.getLogger(__name__)


def enrol(device, token):
    _log.info("device enrolled", token)
    _log.warning("device refused", key=device.private_key)
