"""On the pods' PYTHONPATH: gives the echo engine a model's time to load, SLOW_LOAD_SECONDS of it."""

import os
import sys
import time


class SlowLoad:
    """Asked by the import system before anybody else; finds nothing, but takes its time."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "deepseek_serving.engines.echo":
            time.sleep(float(os.environ["SLOW_LOAD_SECONDS"]))


if "SLOW_LOAD_SECONDS" in os.environ:
    sys.meta_path.insert(0, SlowLoad)
