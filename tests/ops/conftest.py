from typing import get_args

from support.devices import device_fixture

from fluxcore.backends import Backend

device = device_fixture(get_args(Backend))
