"""A device that fails for good, and a worker that fails all its jobs: neither empties the queue."""

from __future__ import annotations

import pytest

from shared.exit_codes import START_AGAIN
from shared.jobs.attempts import Attempts
from shared.jobs.entities import Ending, Failed, Succeeded
from shared.states import Status
from tests.servers import wait_until
from tests.worker.conftest import Shop
from worker.engines.device_faults import device_fault
from worker.health.failure_streak import FailureStreak

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: misaligned address",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "HIP error: an illegal memory access was encountered",
        "HIP error: unspecified launch failure",
        "CUDA error: unknown error",
        "Native API failed. Native API returns: 20 (UR_RESULT_ERROR_DEVICE_LOST)",
        "command buffer exited with error status: (kIOGPUCommandBufferCallbackErrorHang)",
        "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.",
    ],
)
def test_what_devices_and_their_libraries_say_when_they_fail_for_good_is_known(said: str) -> None:
    assert device_fault(RuntimeError(said)) is not None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: invalid argument"),
        RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm`"),
        RuntimeError("command buffer exited with error: (kIOGPUCommandBufferCallbackErrorOutOfMemory)"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
        ValueError("a prompt about a device-side assert triggered"),
    ],
)
def test_running_out_of_memory_and_wrong_arguments_are_no_fault_of_the_device(error: Exception) -> None:
    assert device_fault(error) is None


def test_a_fault_is_known_whatever_it_was_wrapped_in() -> None:
    """Libraries and engines turn what they meet into errors of their own."""
    try:
        try:
            raise RuntimeError("CUDA error: device-side assert triggered")
        except RuntimeError as error:
            raise ValueError("the model cannot be read") from error
    except ValueError as error:
        fault = device_fault(error)
    assert fault is not None and fault.said == "device-side assert triggered"


@pytest.mark.slow
@pytest.mark.chaos
def test_a_failed_device_costs_the_job_that_met_it_an_attempt_and_all_others_nothing(shop: Shop) -> None:
    first = shop.worker()
    beside = shop.draw(steps=200, step_seconds=0.05)
    shop.wait_for_step(beside, 1)
    poison = shop.draw(steps=5, poison_at_step=1, max_attempts=1)
    assert first.wait(60) == START_AGAIN
    lost = shop.jobs.get(poison)
    assert lost.status is Status.FAILED and lost.error is not None
    assert lost.error["type"] == "worker-lost"
    assert "left because its device failed (device-side assert triggered)" in lost.error["message"]
    back = shop.jobs.get(beside)
    assert (back.status, back.attempt, back.attempts) == (Status.QUEUED, 1, 0)
    [attempt] = Attempts(shop.database).of([beside])[beside]
    assert attempt.how == "handed-back"
    shop.worker()
    assert shop.wait(beside).status is Status.SUCCEEDED
    assert shop.wait(shop.draw()).status is Status.SUCCEEDED


@pytest.mark.slow
@pytest.mark.chaos
@one_database
def test_a_job_that_makes_every_device_fail_is_given_up_and_the_queue_goes_on(shop: Shop) -> None:
    poison = shop.draw(steps=5, poison_at_step=1, max_attempts=2)
    others = [shop.draw(seed=seed) for seed in range(4)]
    for _ in range(2):
        assert shop.worker().wait(60) == START_AGAIN
    shop.worker()
    assert [shop.wait(job_id).status for job_id in others] == [Status.SUCCEEDED] * 4
    lost = shop.wait(poison)
    assert (lost.status, lost.attempts) == (Status.FAILED, 2)


@pytest.mark.slow
@pytest.mark.chaos
@one_database
def test_a_worker_whose_engine_thread_ends_leaves_and_its_jobs_go_back(shop: Shop) -> None:
    """As of an error that no job made, while memory is given back to the device, say."""
    breaks = (
        "import worker.kiln.scheduler as module\n"
        "def fail(*_): raise RuntimeError('a bug')\n"
        "module.Scheduler._candidate = module.Scheduler._turn = fail"
    )
    process = shop.worker(breaks)
    job_id = shop.draw()
    assert process.wait(60) == START_AGAIN
    back = shop.jobs.get(job_id)
    assert (back.status, back.attempts) == (Status.QUEUED, 0)


BROKEN = Failed(type="internal", message="nobody foresaw it")


def noted(*heard: tuple[str, Ending], most: int = 3) -> list[bool]:
    """Whether the worker is unfit after each of these."""
    failures = FailureStreak(most)
    return [failures.note(kind, ending) is not None for kind, ending in heard]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_worker_is_unfit_when_jobs_of_so_many_kinds_have_failed_in_a_row(most: int) -> None:
    found = noted(*((f"model {number}", BROKEN) for number in range(5)), most=most)
    assert found == [number >= most for number in range(1, 6)]


def test_a_model_that_fails_all_its_jobs_makes_no_worker_unfit() -> None:
    assert not any(noted(*[("broken", BROKEN)] * 100))


def test_a_success_shows_that_the_worker_can() -> None:
    good = ("good", Succeeded())
    assert not any(noted(("a", BROKEN), ("b", BROKEN), good, ("c", BROKEN), ("d", BROKEN), good))


@pytest.mark.parametrize(
    "ending",
    [
        Failed(type="invalid-input", message="no picture"),
        Failed(type="out-of-memory", message="too large", retryable=True),
        Failed(type="internal", message="the storage cannot be written", retryable=True),
    ],
)
def test_what_is_not_the_workers_fault_and_what_passes_do_not_count(ending: Ending) -> None:
    assert not any(noted(*((f"model {number}", ending) for number in range(9))))


def test_no_number_of_failures_counts_where_the_operator_says_so() -> None:
    assert not any(noted(*((f"model {number}", BROKEN) for number in range(9)), most=0))


@pytest.mark.slow
@pytest.mark.chaos
@one_database
def test_a_worker_that_fails_jobs_of_every_kind_takes_no_more_and_says_so_until_it_is_started_again(
    shop: Shop,
) -> None:
    breaks = (
        "import worker.kiln.loading as module\n"
        "def fail(self, job, memory): return module.Loaded(job, 0.0, error=RuntimeError('broken'))\n"
        "module.Loader._load = fail"
    )
    sick = shop.worker(breaks)
    kinds = ("fake", "starter-gan", "starter-text")
    assert {shop.wait(shop.draw(model=model)).status for model in kinds} == {Status.FAILED}
    wait_until(lambda: shop.registry.alive(within=60)[0].trouble, what="the worker to say so")
    [seen] = shop.registry.alive(within=60)
    assert seen.queues == () and seen.trouble is not None and "start it again" in seen.trouble
    waiting = [shop.draw(seed=seed) for seed in range(3)]
    wait_until(lambda: shop.tickets.waiting("default") >= 3, what="tickets for other workers to stay")
    assert {shop.jobs.get(job_id).attempt for job_id in waiting} == {0}
    assert sick.process.poll() is None, "it can be looked into"
    assert sick.stop() == 0
    shop.worker()
    assert [shop.wait(job_id).status for job_id in waiting] == [Status.SUCCEEDED] * 3
