"""A loader takes no more memory after many batches than after a few."""

import json
import subprocess
import sys

from support.data_sets import write_data_set

MEASURE = """
import json, sys, fluxcore.data
from fluxcore.data import Loader, Order
def anonymous():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))
ds = fluxcore.data.open(sys.argv[1])
grown = {}
for kind, mix in (("plain", None), ("mixed", {"web": 0.7, "code": 0.3})):
    options = {"out": "int64", "global_batch_size": 8, "threads": 2, "mix": mix, "total_steps": 20_000}
    for step, batch in enumerate(Loader(ds, Order.shuffled(), **options)):
        if step == 4000:
            before = anonymous()
    grown[kind] = anonymous() - before
print(json.dumps(grown))
"""


def test_memory_does_not_grow(tmp_path):
    write_data_set(tmp_path / "set", 500)
    arguments = [sys.executable, "-c", MEASURE, str(tmp_path / "set")]
    grown = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    # Over 16,000 batches: 130 bytes lost a batch would be more.
    assert max(grown.values()) < 2 << 20, grown
