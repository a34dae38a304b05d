"""Which thread computes on several cores of a CPU: the engine thread alone.

Torch computes on a CPU with OpenMP. libgomp gives every thread that runs a parallel region a team of helper
threads of its own, which lives as long as that thread, and helpers spin while they wait for work only as
long as all teams together have no more threads than the machine has cores. A second team anywhere in the
process, be it that of a thread that loads a model, so makes each parallel region wait for the kernel: a
denoiser's forward of 21 ms took 36 ms.

Torch keeps one number of threads for the process, which each thread takes over when it first computes, and
one for each thread that has computed. So the engine thread takes all cores, and then the number for the
process is set to one: threads that libraries or engines start later have no team, whoever starts them.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import cache
from typing import Any

#: how often a helper looks for work before it sleeps: some 0.2 ms
_SPINS = "5000"


def spin_briefly() -> None:
    """Let helpers spin for as long as the next parallel region is usually away, not for 15 ms.

    That is libgomp's own time, and on a machine that is busy with something else too, a helper spins it away
    on the core that the one it waits for should have. Call it before torch is loaded; does nothing where the
    operator has said how helpers wait."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def claim_cores() -> bool:
    """Give the calling thread all cores, and every other thread, those to come included, one.

    Call it on the engine thread before anything computes or loads. False, and nothing is done, as long as
    nobody has loaded torch."""
    torch = imported_torch()
    if torch is None:
        return False
    torch.set_num_threads(_cores(torch))
    # sets the number for the process, and that of a thread that ends here
    setter = threading.Thread(target=torch.set_num_threads, args=(1,), name="cpu threads")
    setter.start()
    setter.join()
    return True


@cache
def _cores(torch: Any) -> int:
    """What torch takes by itself: the machine's cores, or ``OMP_NUM_THREADS``. Known before it is changed."""
    return int(torch.get_num_threads())


def use_one_core() -> None:
    """Have the calling thread take over the process's number of threads now.

    Some libraries ask OpenMP itself how many threads to use, and it knows nothing of torch's number until
    torch has told it, which happens with the thread's first question."""
    if (torch := imported_torch()) is not None:
        torch.get_num_threads()


def imported_torch() -> Any:
    """Torch where it is loaded; None where nobody has loaded it, or another thread has only begun to: then
    the module is there already, and lacks most of what it will have."""
    torch = sys.modules.get("torch")
    loading = getattr(getattr(torch, "__spec__", None), "_initializing", False)  # as importlib asks itself
    return None if loading else torch
