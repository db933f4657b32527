"""Settings of a finished run -> the engine that answers: its model loaded here, or vLLM.

Wiring, and what engines cannot be combined with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from aes.inference import VllmSpec

if TYPE_CHECKING:
    from aes.cli.requests import TrainedRun
    from aes.cli.settings import Settings
    from aes.data.processor import Processor
    from aes.inference.engine import Engine
    from aes.inference.vllm_questions import Backend
    from aes.page import PageRenderer


def needs_weights(settings: Settings) -> bool:
    """Whether the base must lie on this machine; a client of servers needs its tokenizer alone."""
    return not (isinstance(settings.engine, VllmSpec) and settings.engine.urls)


def open_engine(
    run: TrainedRun, *, processor: Processor, renderer: PageRenderer, loaded: Any | None = None
) -> Engine:
    """The run's model, ready to answer.

    Args:
        loaded: See ``aes.model.trained.load_trained``.

    Raises:
        ValueError: If the weights are not there or do not fit, or vLLM does not offer them.
    """
    settings = run.settings
    if not isinstance(settings.engine, VllmSpec):
        return _load_here(run, processor, renderer, loaded)
    from aes.inference.vllm_engine import VllmEngine

    spec = settings.engine
    backend = _connect(spec, processor) if spec.urls else _load_vllm(run, spec, processor)
    engine = VllmEngine(
        backend=backend,
        processor=processor,
        renderer=renderer,
        decoding=settings.decoding,
        max_in_flight=spec.max_in_flight,
    )
    return cast("Engine", engine)  # whoever grades asks both alike


def _load_here(
    run: TrainedRun, processor: Processor, renderer: PageRenderer, loaded: Any | None
) -> Engine:
    from aes.inference.engine import Engine
    from aes.model.trained import load_trained

    settings = run.settings
    assert not isinstance(settings.engine, VllmSpec)
    if loaded is None:
        _require_base(run)
    model = load_trained(
        settings.model,
        run.path,
        cache=settings.cache,
        precision=settings.hardware.precision,
        accelerator=settings.hardware.accelerator,
        kernels=settings.kernels,
        loaded=loaded,
    )
    return Engine(
        model=model,
        processor=processor,
        renderer=renderer,
        decoding=settings.decoding,
        precision=settings.hardware.precision,
        spec=settings.engine,
    )


def _require_base(run: TrainedRun) -> None:
    """Refuse weights that the run was not trained on; those of no checkpoint are made alike."""
    from aes.model.loading import model_folder
    from aes.model.trained import trained_folder
    from aes.training.checkpoint.identity import require_base

    settings = run.settings
    if settings.model.path is not None:
        require_base(trained_folder(run.path), model_folder(settings.model, settings.cache))


def _connect(spec: VllmSpec, processor: Processor) -> Backend:
    from aes.inference.vllm_addresses import read_key, require_addresses
    from aes.inference.vllm_hosts import Hosts
    from aes.inference.vllm_http import HttpClient
    from aes.inference.vllm_server import ServerBackend

    require_addresses(spec.urls, allow_remote=spec.allow_remote)
    client = HttpClient(
        key=read_key(spec.api_key_env),
        timeout_s=spec.timeout_s,
        trust_environment=spec.allow_remote,  # a proxy is elsewhere too
    )
    hosts = Hosts(spec.urls, client, num_retries=spec.num_retries, max_under_way=spec.max_in_flight)
    return ServerBackend(
        hosts, processor=processor, adapter=spec.adapter, base_model=spec.base_model
    )


def _load_vllm(run: TrainedRun, spec: VllmSpec, processor: Processor) -> Backend:
    from aes.inference.vllm_offline import load_offline
    from aes.model.loading import model_folder
    from aes.model.trained import MODEL_FOLDER, trained_folder

    settings, decoding = run.settings, run.settings.decoding
    _require_base(run)
    trained = trained_folder(run.path)
    is_whole = trained.name == MODEL_FOLDER
    # An answer may be longer than those of training, which data.max_tokens counts in.
    longest = max(decoding.max_feedback_tokens, decoding.max_answer_tokens)
    return load_offline(
        trained if is_whole else model_folder(settings.model, settings.cache),
        None if is_whole else trained,
        name=spec.adapter,
        processor=processor,
        max_tokens=settings.data.max_tokens + longest,
        precision=settings.hardware.precision,
        tensor_parallel_size=spec.tensor_parallel_size,
        gpu_memory_utilization=spec.gpu_memory_utilization,
    )
