"""From a submission to a job in the database and a ticket on its way."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from api.auth.caller import Caller
from api.auth.limits import Reservation
from api.usecases import size_limits
from api.usecases.input_files import Inputs
from api.usecases.services import Accepted, Services
from shared.errors import FieldError, InvalidInput
from shared.files.holds import Read
from shared.jobs.dependencies import MAX_DEPENDENCIES, MAX_DEPENDENCIES_PER_REQUEST
from shared.jobs.entities import Job, NewJob, Submitted
from shared.jobs.submission import SubmissionResult
from shared.json_text import json_bytes
from shared.schema.faults import MAX_FAULTS
from shared.webhooks import subscription

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
#: seconds since 1970 at the end of the year 9999
_LAST = 253_402_300_799


def submit(
    services: Services, caller: Caller, body: Mapping[str, Any], idempotency_key: str | None = None
) -> Accepted:
    """Persist one job.

    Raises InvalidInput, IdempotencyMismatch, OverLimit, Unavailable; then nothing is left behind."""
    tenant = caller.tenant
    if idempotency_key is not None and _KEY.fullmatch(idempotency_key) is None:
        raise InvalidInput.at("", "Idempotency-Key must be 1 to 255 visible ASCII characters")
    fingerprint = None
    if idempotency_key is not None:
        fingerprint = _fingerprint(body)
        # before all that may have changed since it was accepted: limits, models, files, other jobs
        if (known := services.jobs.keyed(idempotency_key, fingerprint, tenant=tenant)) is not None:
            return Accepted(known, replayed=True, position=None)
    services.limits.submission(caller)
    with services.limits.storage.reserve(tenant) as room:
        inputs = Inputs(services, tenant, room)
        with _taken_back(inputs):
            new = _new(services, tenant, body, inputs, room, idempotency_key, fingerprint)
            accepted = services.writer.call(new)
        if accepted.replayed:
            inputs.discard()
        else:
            room.keep()
    return accepted


def submit_all(services: Services, caller: Caller, bodies: Sequence[Mapping[str, Any]]) -> list[Job]:
    """Persist all of the jobs or none; pointers begin with ``/jobs/17``. Raises as ``submit`` does."""
    tenant = caller.tenant
    services.limits.submission(caller, len(bodies))
    _check_dependencies(sum(len(body.get("depends_on", ())) for body in bodies))
    with services.limits.storage.reserve(tenant) as room:
        inputs = Inputs(services, tenant, room)
        with _taken_back(inputs):
            new = _all_new(services, tenant, bodies, inputs, room)
            answers = _persist_all(services, tenant, new)
        room.keep()
    made = [answer.job for answer in answers if isinstance(answer, Submitted)]
    services.announce(made)
    return made


def _all_new(
    services: Services,
    tenant: str,
    bodies: Sequence[Mapping[str, Any]],
    inputs: Inputs,
    room: Reservation,
) -> list[NewJob]:
    """The jobs of a bulk submission. Raises InvalidInput with the first faults of all of them."""
    faults: list[FieldError] = []
    new: list[NewJob] = []
    for index, body in enumerate(bodies):
        try:
            new.append(_new(services, tenant, body, inputs, room))
        except InvalidInput as error:
            faults += [FieldError(f"/jobs/{index}{one.pointer}", one.detail) for one in error.errors]
        if len(faults) >= MAX_FAULTS:  # each may cost a look into the database
            break
    if faults:
        raise InvalidInput(faults[:MAX_FAULTS])
    _check_dependencies(sum(len(job.depends_on) for job in new))
    return new


def _check_dependencies(count: int) -> None:
    if count > MAX_DEPENDENCIES_PER_REQUEST:
        raise InvalidInput.at("/jobs", f"must depend on at most {MAX_DEPENDENCIES_PER_REQUEST} jobs together")


def _persist_all(services: Services, tenant: str, new: Sequence[NewJob]) -> Sequence[SubmissionResult]:
    try:
        return services.jobs.submit(new, limits=services.waiting_limits([tenant]), together=True)
    except InvalidInput as error:
        raise InvalidInput([FieldError(f"/jobs{one.pointer}", one.detail) for one in error.errors]) from None


def retry(services: Services, caller: Caller, job_id: str, *, once: bool = False) -> Job:
    """A new job like an ended one; ``once``: only the first time. Raises NotFound, Conflict, OverLimit."""
    tenant = caller.tenant
    services.limits.submission(caller)
    job = services.jobs.retry(job_id, tenant=tenant, limits=services.waiting_limits([tenant]), once=once)
    services.limits.storage.move(tenant, used=json_bytes(job.input) + json_bytes(job.metadata))
    services.announce([job])
    return job


@contextmanager
def _taken_back(inputs: Inputs) -> Any:
    try:
        yield
    except BaseException:
        inputs.discard()
        raise


def _new(
    services: Services,
    tenant: str,
    body: Mapping[str, Any],
    inputs: Inputs,
    room: Reservation,
    idempotency_key: str | None = None,
    fingerprint: str | None = None,
) -> NewJob:
    size_limits.check_begun(body.get("input"))
    metadata = body.get("metadata", {})
    taken = size_limits.check_metadata(metadata)
    model = services.catalog.resolve(body.get("model"), body.get("task"), tenant)
    values = services.catalog.check_input(model, body.get("input", {}), tenant=tenant)
    values = inputs.settle(model.input_schema, values, "/input")
    room.grow(taken + size_limits.check_settled(values))
    reads = inputs.take_reads()
    return NewJob(
        tenant=tenant,
        task=model.task,
        model=model.id,
        queue=model.queue,
        input=values,
        priority=int(body.get("priority", 5)),
        max_attempts=int(body.get("max_attempts", services.settings.max_attempts)),
        timeout=body.get("timeout"),
        run_at=when(body.get("run_at"), "/run_at"),
        expires_in=body.get("expires_in"),
        depends_on=_depends_on(services, tenant, body.get("depends_on", ()), reads),
        reads=reads,
        group=body.get("group"),
        metadata=metadata,
        webhook=subscription.read(body.get("webhook"), allow_private=services.settings.webhook_allow_private),
        idempotency_key=idempotency_key,
        fingerprint=fingerprint,
    )


def _depends_on(
    services: Services, tenant: str, given: Sequence[str], reads: Sequence[Read]
) -> tuple[str, ...]:
    """The jobs that the submission names, then those whose outputs it reads. Raises InvalidInput."""
    read = [one.reference for one in reads if one.output is not None]
    if not (given or read):
        return ()
    mine = services.jobs.owned(given, tenant=tenant)
    if faults := [
        FieldError(f"/depends_on/{index}", f"no job {job_id!r}")
        for index, job_id in enumerate(given)
        if job_id not in mine
    ]:
        raise InvalidInput(faults[:MAX_FAULTS])
    needed = tuple(dict.fromkeys((*given, *read)))
    if len(needed) > MAX_DEPENDENCIES:
        raise InvalidInput.at(
            "/depends_on", f"must be at most {MAX_DEPENDENCIES} jobs, those that the input names included"
        )
    return needed


def when(text: str | None, pointer: str) -> float | None:
    """A time in seconds since 1970; None for none. Raises InvalidInput."""
    if text is None:
        return None
    try:
        seconds = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= _LAST:
        raise InvalidInput.at(pointer, "must be a time as in 2030-01-31T12:00:00Z, from 1970 to 9999")
    return seconds


def _fingerprint(body: Mapping[str, Any]) -> str:
    """Equal for bodies that say the same. Raises InvalidInput for one that is large without its files."""
    said: Any = body
    if not size_limits.is_light(body):
        size_limits.check_begun(body.get("input"))
        size_limits.check_metadata(body.get("metadata", {}))
        said = _without_files(body)
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _without_files(value: Any) -> Any:
    """The value with each ``data:`` URI replaced by its hash, which other threads need not wait for."""
    if isinstance(value, dict):
        return {name: _without_files(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_files(part) for part in value]
    if isinstance(value, str) and value[:5].lower() == "data:":
        return {"sha256": hashlib.sha256(value.encode()).hexdigest()}
    return value
