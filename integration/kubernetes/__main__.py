"""`python -m integration.kubernetes KUBECONFIG`: runs the double until it is interrupted; the file leads to it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from integration.kubernetes.double import Double

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Double() as double:
        double.kubeconfig(Path(sys.argv[1]))
        print(double.url, flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
