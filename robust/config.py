"""The schema of ray_config.yaml: every setting of every job, checked before anything runs.

Unknown keys are refused with the nearest known one, and every error names the key, the value and what is allowed.
Epsilon is written in 0-255 units here and in reports; `PIXEL` turns it into the [0, 1] units of robust/ once.
Settings that only say where and with how many machines a run happens, or what a job does with what is there, carry
`resource()` and are not part of a run's identity: the same run may be resumed on another cluster.
"""
from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from robust.config_section import Section, resource
from robust.deploy_config import DeployConfig
from robust.object_stores.address import holds_credentials
from robust.serve_config import ServeConfig

PIXEL = 1.0 / 255.0
"""One step of an 8-bit channel, in the [0, 1] units that robust/ computes in."""

Epsilon = Annotated[float, Field(ge=0, le=255)]
Activation = Literal["relu", "silu", "gelu", "softplus"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Run(Section):
    name: Name = Field("run", description="unique name of the run; the same name again resumes it")
    seed: int = Field(24, ge=0, description="the one seed from which every generator is seeded")


class StorageConfig(Section):
    uri: str = resource(
        "outputs/storage", description="a local folder, s3://bucket/prefix or gs://bucket/prefix; runs live below it"
    )
    endpoint_url: str | None = resource(
        None, description="S3 endpoint of SeaweedFS, MinIO, R2, Ceph (http:// or https://); null: AWS_ENDPOINT_URL or AWS itself"
    )
    region: str | None = resource(None, description="S3 region; null: AWS_REGION, AWS_DEFAULT_REGION, the profile's, us-east-1")
    addressing_style: Literal["path", "virtual", "auto"] = resource(
        "auto", description="how the bucket is addressed; auto: path where there is an endpoint, virtual on AWS"
    )
    profile: str | None = resource(None, description="profile of ~/.aws on every node; null: AWS_PROFILE, environment or role")
    ca_bundle: str | None = resource(
        None, description="PEM file of trusted certificates for https://; null: AWS_CA_BUNDLE, else the usual"
    )
    checksums: Literal["auto", "crc", "md5"] = resource(
        "auto", description="crc: S3's newer checksums; md5: older ones; auto: crc on AWS only"
    )
    max_attempts: int = resource(10, ge=1, description="tries of one request before it is an error")
    retry_budget_s: float = resource(180, gt=0, description="seconds of one request in all its tries before it is an error")
    connect_timeout_s: float = resource(10, gt=0, description="seconds to connect")
    read_timeout_s: float = resource(60, gt=0, description="seconds without a byte before a request is tried again")


class ClusterConfig(Section):
    address: str = resource("auto", description="local: start Ray here; auto or host:port: join a running cluster")
    wait_for_nodes_s: float = resource(
        0, ge=0, description="for so long a job waits for nodes that its workers need, where the cluster grows; 0: not at all"
    )
    num_cpus: int | None = resource(None, ge=1, description="CPUs of the local Ray; null: all cores")
    num_gpus: int | None = resource(None, ge=0, description="GPUs of the local Ray; null: all that are seen")
    object_store_memory_mb: int = resource(1024, ge=100, description="object store of the local Ray in MiB")
    dashboard: bool = resource(False, description="start the dashboard of the local Ray (127.0.0.1 only)")
    dashboard_port: int = resource(8265, description="its port")
    local_s3: bool = resource(False, description="start a private SeaweedFS S3 server on 127.0.0.1 for storage.uri")
    tls: bool = resource(
        False, description="TLS between Ray's processes, with certificates of the cluster; not on aws, gcp (docs/cluster/tls.md)"
    )
    outputs: str = resource("outputs", description="local folder for the S3 server's data, logs and copies of reports")
    deploy: DeployConfig = resource(DeployConfig())


class DatasetConfig(Section):
    layout: str = Field(description="a layout of robust/data/layouts: celeb_df_v2, faceforensics, dfdc, folder, ...")
    uri: str = resource(description="root of the unpacked data set: a folder or s3://bucket/prefix")
    name: Name | None = Field(None, description="its name in rows and reports; null: the layout's")
    compression: Literal["c0", "c23", "c40"] = Field("c23", description="FaceForensics++ quality")
    methods: list[str] | None = Field(None, description="manipulation methods to keep; null: all")
    max_videos: int | None = Field(None, ge=1, description="at most so many, evenly over methods; null: all")


class SplitConfig(Section):
    official_test: bool = Field(True, description="keep a data set's official test list as the test split")
    test_fraction: float = Field(0.2, ge=0, lt=1, description="share of identities for test where no official list is")
    val_fraction: float = Field(0.15, gt=0, lt=1, description="share of identities for validation")
    folds: int | None = Field(None, ge=2, description="k-fold by identity; null: one split")
    fold: int = Field(0, ge=0, description="which fold is the test split")
    use_everything: bool = Field(False, description="train on all that is not test; nothing left to select on")


class DemoConfig(Section):
    enabled: bool = Field(False, description="make the demo data set (real faces, face swaps) at datasets[0].uri")
    identities: int = Field(72, ge=30, description="people in it")
    fakes_per_kind: int = Field(150, ge=10, description="fake videos of each kind (coarse, blended, fine)")
    takes: int = Field(3, ge=1, description="videos of each person's photographs, in turn and at least one of each, each with its own camera motion")
    frames: int = Field(10, ge=5, description="frames of a video")
    size: int = Field(224, ge=96, description="height and width of a video, pixels")
    fps: int = Field(20, ge=1, description="frames a second")
    photographs: str | None = Field(
        None, description="folder with photographs of other people, who come into training alone, as real videos and as swaps; null: nobody",
        json_schema_extra={"absent_when_null": True},  # runs of before there was this keep their identity
    )


class DataConfig(Section):
    datasets: list[DatasetConfig] = Field([], description="the data sets; all go into one table")
    splits: SplitConfig = SplitConfig()
    demo: DemoConfig = DemoConfig()


class FilterConfig(Section):
    min_size: float = Field(0, ge=0, description="faces whose box is smaller are refused, pixels, the root of its area")
    min_sharpness: float = Field(0, ge=0, description="blurred ones: below this variance of the Laplacian at 112 x 112")
    max_yaw: float = Field(90, ge=0, le=90, description="and those turned further, degrees, by the landmarks; 90: none")
    min_frames: int = Field(1, ge=1, description="people found in fewer sampled frames are refused")


class ExtractConfig(Section):
    detector: str = Field("mtcnn", description="face detector: mtcnn or retinaface, see docs/extraction.md")
    decoder: Literal["decord", "av"] = Field(
        "decord", description="decord where it can be trusted, or PyAV alone, which finds more damage"
    )
    frames_train: int = Field(25, ge=1, description="frames a training or validation video, uniform over it")
    frames_test: int = Field(20, ge=1, description="frames a test video")
    margin: float = Field(0.3, ge=0, le=2, description="margin around the face box, share of its longer side")
    min_score: Share = Field(0.9, description="detections below this probability are dropped")
    min_face: int = Field(30, ge=10, description="smallest face height that counts, pixels")
    detect_size: int = Field(640, ge=100, description="frames are shrunk to this longer side for detection")
    people: Literal["subject", "all"] = Field("subject", description="crops of the person the video is about, or of everybody")
    embedding: Literal["none", "grey_grid"] = Field("none", description="links faces by their looks too, see docs/extraction.md")
    align: bool = Field(False, description="turn and scale crops so that eyes, nose and mouth lie in the same place")
    filter: FilterConfig = FilterConfig()
    image_format: Literal["png", "jpeg", "webp"] = Field("png", description="of stored crops (webp is lossless)")
    jpeg_quality: int = Field(95, ge=95, le=100, description="if image_format is jpeg")
    max_crop: int = Field(512, ge=64, description="crops are shrunk to at most this longer side, pixels")
    videos_per_shard: int | None = Field(
        None, ge=1, description="videos of one Parquet shard, best a power of two; null: so many as make about 128 MB",
        json_schema_extra={"null_counts_as": 64},  # the default before it could be null: runs of then keep their identity
    )
    decode_cpus: float = resource(1, gt=0, description="CPUs of one decoding task")
    decode_timeout_s: float = resource(300, gt=0, le=86400, description="seconds one video may take to decode; then given up")
    decode_memory_mb: int = resource(2048, ge=64, le=2**20, description="MiB its decoder may use, with its frames (25 of 4K: 600)")
    detect_cpus: float = resource(1, gt=0, description="CPUs of one detector actor")
    detect_gpus: float = resource(0, ge=0, description="GPU share of one detector actor")
    detect_actors: int | None = resource(None, ge=1, description="detector actors; null: as many as the cluster has room for")


class ModelConfig(Section):
    name: str = Field("legacy_xception", description="any timm model, or meso_inception4")
    input_size: int = Field(299, ge=32, description="height and width of the model's input, pixels")
    weights: str = Field("timm", description="timm, package (a pinned package's ImageNet weights), none, or a file")
    activation: Activation | None = Field(
        None, description="swap every ReLU for this smooth one; null: as built"
    )


class AugmentConfig(Section):
    level: Literal["none", "weak", "geometric", "strong", "heavy"] = Field(
        "weak",
        description="weak: JPEG, noise, blur, flip; geometric: + shift, scale, rotation; strong: + colour; heavy: + warps, light, parts covered",
    )
    jpeg_quality: tuple[int, int] = Field((60, 100), description="range of JPEG quality")
    jpeg_probability: Share = Field(0.5, description="share of crops compressed")
    blur_kernel: int = Field(3, ge=3, description="largest Gaussian blur kernel, pixels, odd")
    blur_probability: Share = Field(0.05, description="share of crops blurred")
    noise_std: tuple[float, float] = Field((3.2, 7.1), description="range of the noise's standard deviation, 0-255 units")
    noise_probability: Share = Field(0.1, description="share of crops with noise added")
    flip_probability: Share = Field(0.5, description="share of crops mirrored")


SelectBy = Literal["auc", "robust_auc", "last"]


class AttackConfig(Section):
    norm: Literal["linf", "l2"] = Field("linf", description="the ball")
    epsilon: Epsilon = Field(0.5, description="radius in 0-255 units; 0: no attack")
    steps: int = Field(7, ge=1, description="gradient steps")
    step_size: Epsilon | None = Field(None, description="in 0-255 units; null: 2.5 * epsilon / steps")
    random_start: bool = Field(True, description="start at a random point of the ball")
    targets: Literal["both", "fake"] = Field(
        "both", description="both: real and fake crops are attacked; fake: only fakes, as a forger would"
    )


class LipschitzConfig(Section):
    weight: float = Field(0.0, ge=0, description="factor before the term; 0: off")
    kind: Literal["exact", "finite_difference"] = Field("exact", description="double backward, or one extra pass")
    norm: Literal["l2", "l1"] = Field("l2", description="l2: ||dz/dx||_2^2, l1: ||dz/dx||_1, x in [0, 1]")
    of: Literal["logit", "loss"] = Field("logit", description="whose gradient: the logit's, or the cross-entropy's")
    at: Literal["adversarial", "clean"] = Field("adversarial", description="point where the gradient is taken")


class ProbeConfig(Section):
    steps: int = Field(5, ge=2, description="PGD steps of the probe")
    images: int = Field(64, ge=8, description="training crops that it attacks, half of them fake")
    drop: Share = Field(0.2, description="AUC under PGD falls by more in an epoch: its weights are discarded, PGD goes on")


class RecipeConfig(Section):
    recipe: str = Field("madry", description="madry, fast, free, trades, mart, gradnorm, reference, flagship: docs/training.md")
    epochs: int = Field(20, ge=1, description="passes over the training crops")
    attack: AttackConfig = AttackConfig()
    lipschitz: LipschitzConfig = LipschitzConfig()
    adversarial_share: Share = Field(1.0, description="weight of the adversarial loss; the rest is clean loss")
    awp: float = Field(0.0, ge=0, lt=1, description="weights are perturbed by this share of their norm, on top of any recipe; 0: off")
    beta: float = Field(6.0, ge=0, description="trades, mart: factor before the divergence of clean and adversarial")
    noise: float = Field(2.0, ge=0, description="fast: radius of the noise before the step, in epsilons")
    replays: int = Field(4, ge=1, description="free: updates on each batch")
    probe: ProbeConfig = ProbeConfig()
    fast_share: Share = Field(0.7, description="flagship: share of the epochs that are fast ones")
    finish: Literal["trades", "madry"] = Field("trades", description="flagship: recipe of the others")
    epsilon_warmup: Share = Field(0.0, description="share of the steps over which epsilon rises from 0")
    learning_rate: float | None = Field(None, gt=0, description="null: train.learning_rate")
    activation: Activation | None = Field(None, description="swap every ReLU for this smooth one; null: model.activation")
    batch_norm: Literal["train", "frozen"] | None = Field(None, description="as train.batch_norm, for this model; null: that")
    refit: int = Field(16, ge=0, description="batches on which swapped activations get batch-norm statistics of their own first")
    init_from: str | None = Field(None, description="start from this model of the run (baseline); null: model.weights")
    select_by: SelectBy | None = Field(None, description="validation figure of the best checkpoint; null: train.select_by")


class ValidationConfig(Section):
    epsilon: Epsilon = Field(0.5, description="fixed evaluation threat, 0-255 units")
    steps: int = Field(10, ge=1, description="PGD steps of it")
    targets: Literal["both", "fake"] = Field("fake", description="fake: fakes are attacked and reals stay, as in the headline; or both")
    max_images: int = Field(256, ge=8, description="at most so many validation crops, evenly over videos")
    every: int = Field(1, ge=1, description="epochs between validations")


class SelfBlendConfig(Section):
    share: Share = Field(0.0, description="share of the fakes drawn that are blends of real crops; 0: off, 1: no other fakes")
    strength: Literal["faint", "strong", "mixed"] = Field(
        "strong", description="faint: about as published; strong: larger and with harder edges; mixed: either, at random"
    )


class TrainConfig(Section):
    models: list[Literal["baseline", "defended"]] = resource(["baseline", "defended"], description="which to train now")
    batch_size: int = Field(32, ge=2, description="crops a step over all workers")
    accumulate: int = Field(1, ge=1, description="parts in which a worker computes its batch, one update for all; saves memory")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="adam, adamw, or sgd with momentum 0.9")
    learning_rate: float = Field(1e-4, gt=0, description="highest learning rate")
    min_learning_rate: float = Field(1e-6, ge=0, description="end of the cosine annealing")
    warmup_steps: int = Field(0, ge=0, description="linear learning-rate warm-up")
    weight_decay: float = Field(0.0, ge=0, description="of the optimizer")
    gradient_clip: float | None = Field(None, gt=0, description="largest gradient norm; null: off")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="weight averaging; the average is scored and saved; 0: off")
    batch_norm: Literal["train", "frozen"] = Field("train", description="frozen: the statistics of the start are kept")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the forward and backward passes")
    fold: bool = Field(True, description="attack with batch norms folded into the convolutions: the same function, faster")
    balance: bool = Field(True, description="draw as many real as fake crops, and methods evenly")
    self_blend: SelfBlendConfig = SelfBlendConfig()
    select_by: SelectBy = Field("auc", description="validation figure of the best checkpoint")
    patience: int | None = Field(None, ge=1, description="validations without a better robust AUC after which training ends; null: never")
    validation: ValidationConfig = ValidationConfig()
    baseline: RecipeConfig = RecipeConfig(epochs=20, attack=AttackConfig(epsilon=0))
    defended: RecipeConfig = RecipeConfig(epochs=50, lipschitz=LipschitzConfig(weight=9.3e-4))
    workers: int = resource(1, ge=1, description="Ray Train workers (DDP)")
    least_workers: int | None = resource(None, ge=1, description="fewest workers it begins and goes on with while nodes are missing; null: workers")
    cpus_per_worker: float = resource(1, gt=0, description="CPUs of one worker; as many computing threads")
    gpus_per_worker: float = resource(0, ge=0, description="0: CPU")
    loader_threads: int = resource(2, ge=0, description="threads a worker decodes and augments with; 0: in the loop")
    checkpoints_to_keep: int = resource(2, ge=1, description="best ones that stay in the storage, beside the latest")
    max_failures: int = resource(3, ge=0, description="restarts after a lost worker before the job is an error")
    hang_timeout_s: float | None = resource(
        1800, gt=0, le=86400, description="seconds without a forward pass of the network after which a worker or trial is ended as one that hangs; null: never"
    )


class TuneConfig(Section):
    samples: int = Field(16, ge=0, description="trials; 0: jobs.pipeline does without a search")
    search: Literal["random", "optuna"] = Field(
        "random", description="settings drawn at random, or by Optuna's TPE from what others reached"
    )
    objectives: list[Literal["robust_auc", "auc", "cost"]] = Field(
        ["robust_auc", "auc", "cost"], min_length=1, description="what optuna looks for (cost: seconds a step); random for nothing"
    )
    budget_hours: float | None = Field(
        None, gt=0, description="GPU-hours (CPU-hours of trials without one) after which no trial begins; null: none"
    )
    epsilon: tuple[Epsilon, Epsilon] = Field((0.25, 8.0), description="range of the training epsilon, log-uniform; low = high fixes it")
    steps: list[int] = Field([1, 2, 5, 7, 10], min_length=1, description="choices of the number of steps")
    lipschitz_weight: tuple[float, float] = Field((1e-6, 1e-2), description="range of the weight, log-uniform; low = high fixes it, [0, 0]: off")
    step_size: tuple[Positive, Positive] | None = Field(
        None, description="range of the step size, in epsilon / steps, log-uniform; null: the attack's usual"
    )
    lipschitz_kind: list[Literal["exact", "finite_difference"]] | None = Field(
        None, min_length=1, description="choices of train.defended.lipschitz.kind; null: that one"
    )
    activation: list[Activation] | None = Field(
        None, min_length=1, description="choices of train.defended.activation; null: that one"
    )
    recipe: list[str] | None = Field(None, min_length=1, description="choices of train.defended.recipe; null: that one")
    epochs: int = Field(10, ge=1, description="longest trial")
    grace_epochs: int = Field(2, ge=1, description="ASHA stops no trial before")
    reduction_factor: int = Field(2, ge=2, description="ASHA keeps one in so many")
    threat: ValidationConfig = ValidationConfig(epsilon=1.0)
    clean_tolerance: Share = Field(0.03, description="the winner's clean AUC is at most so far below the best trial's")
    winner: Literal["retrain", "checkpoint", "report"] = resource(
        "retrain", description="train the defended model with the winner's settings, take its checkpoint, or only tell"
    )
    cpus_per_trial: float = resource(1, gt=0, description="CPUs of one trial")
    gpus_per_trial: float = resource(0, ge=0, description="GPU share of one trial; 0: CPU")
    max_concurrent: int | None = resource(None, ge=1, description="trials at once; null: what the cluster's resources allow")


class EvaluationAttack(Section):
    steps: int = Field(20, ge=1, description="gradient steps of one restart")
    restarts: int = Field(1, ge=1, description="random starts; the strongest image counts")


class GatesConfig(Section):
    enabled: bool = Field(True, description="refuse a headline that these checks of the attack do not support")
    images: int = Field(32, ge=8, description="test crops of each model that they are measured on, half of them fake")


class CorruptionsConfig(Section):
    enabled: bool = Field(True, description="measure the AUC under JPEG, H.264, blur, noise and eight more, without an attack")
    severities: list[Annotated[int, Field(ge=1, le=5)]] = Field([1, 2, 3, 4, 5], min_length=1, description="of 1 (mild) to 5")
    frames_per_video: int | None = Field(4, ge=1, description="at most so many test crops a video; null: all")


class CodecConfig(Section):
    enabled: bool = Field(False, description="attack faces in their frames and share these; needs the videos")
    attacks: list[str] | None = Field(None, min_length=1, description="of the suite; null: the headline's, and eot if the suite has it")
    epsilons: list[Epsilon] = Field([4, 8], min_length=1, description="of these attacks, 0-255 units, Linf")
    crf: list[Annotated[int, Field(ge=0, le=51)]] = Field([23, 28, 35, 40], description="H.264 at these constant rate factors; higher is worse")
    jpeg_quality: list[Annotated[int, Field(ge=1, le=100)]] = Field([90, 70, 50], description="JPEG of each frame at these qualities")
    videos: int | None = Field(100, ge=1, description="at most so many fakes of the test split; null: all")
    frames_per_video: int | None = Field(4, ge=1, description="at most so many frames of a video; null: all")


class WholeVideoConfig(Section):
    enabled: bool = Field(False, description="attack all frames of a video at once against its score, beside the worst case frame by frame")
    epsilons: list[Epsilon] | None = Field(None, min_length=1, description="some of evaluate.epsilons, 0-255 units, Linf; null: all")
    steps: int = Field(50, ge=1, description="APGD steps of one restart")
    restarts: int = Field(1, ge=1, description="random starts; each video's strongest point counts")


class UniversalConfig(Section):
    enabled: bool = Field(False, description="one perturbation for all fakes and one for all reals, made on validation crops, tried on test crops")
    epsilons: list[Epsilon] | None = Field(None, min_length=1, description="some of evaluate.epsilons, 0-255 units, Linf; null: all")
    steps: int = Field(50, ge=1, description="gradient steps, each over all crops that it is made on")
    images: int = Field(256, ge=2, description="validation crops that it is made on, half of them fake")


def _budgets(**steps_and_restarts: tuple[int, int]) -> dict[str, EvaluationAttack]:
    return {name: EvaluationAttack(steps=steps, restarts=restarts) for name, (steps, restarts) in steps_and_restarts.items()}


_STANDARD = _budgets(apgd=(50, 5), apgd_ce=(50, 1), fmn=(50, 3), square=(5000, 1), transfer=(10, 1))


class AuditedModelConfig(Section):
    """A model that was not trained here. What goes into it and what comes out has no default: a wrong guess would look like a result."""

    kind: Literal["torchscript", "onnx", "timm"] = Field(description="what the file is")
    path: str = resource(description="the file: .pt of torch.jit.save, .onnx, or a timm model's .safetensors or .pth; s3:// as well")
    name: str | None = Field(None, description="of kind timm: the name of the architecture")
    input_size: int = Field(ge=16, le=2048, description="height and width of its input, pixels")
    mean: tuple[float, float, float] | Literal["none"] = Field(description="subtracted from its input, in its own channel order; none: it does so itself")
    std: tuple[Positive, Positive, Positive] | Literal["none"] = Field(description="then divided by; none: it does so itself")
    value_range: tuple[float, float] = Field((0, 1), description="black and white as it takes them, before mean and std: [0, 1], [0, 255], [-1, 1]")
    channels: Literal["rgb", "bgr"] = Field("rgb", description="the order of its colours")
    layout: Literal["nchw", "nhwc"] = Field("nchw", description="the order of its axes; nhwc as of TensorFlow")
    output: Literal["logit", "two_logits", "probability", "two_probabilities"] = Field(description="what it gives for an image")
    fake_index: Literal[0, 1] = Field(1, description="which of two outputs is fake; of one output: 1 if it is high for fake, 0 if high for real")
    threshold: float = Field(0.5, gt=0, lt=1, description="probability of fake from which on it says fake: becomes logit 0")

    @model_validator(mode="after")
    def _consistent(self) -> AuditedModelConfig:
        if (self.kind == "timm") != (self.name is not None):
            raise ValueError("evaluate.models.*.name: kind timm needs the name of its architecture, and the other kinds have none")
        if (self.mean == "none") != (self.std == "none"):
            raise ValueError("evaluate.models.*.mean, std: give both, or none for both")
        if self.value_range[0] >= self.value_range[1]:
            raise ValueError("evaluate.models.*.value_range: must be [black, white] with black below white")
        return self


class SmoothingConfig(Section):
    enabled: bool = Field(False, description="certify L2 radii by votes under noise: n0 + n model passes a crop and sigma")
    sigmas: list[Annotated[float, Field(gt=0, le=255)]] = Field(
        [4, 16, 64], min_length=1, description="standard deviations of the noise, 0-255 units; each gives a curve of its own")
    n0: int = Field(100, ge=1, description="votes that choose the class")
    n: int = Field(1000, ge=10, description="votes that bound its share; published figures have 100 000")
    alpha: float = Field(0.001, gt=0, lt=0.5, description="a certificate may be wrong with this probability")
    frames_per_video: int | None = Field(1, ge=1, description="at most so many test crops a video; null: all")


class ExportConfig(Section):
    crops: int = Field(16, ge=0, description="test crops of each model, half of them fake, one a video; 0: none")
    epsilon: float = Field(2, ge=1, le=255, description="of the headline's attack, 0-255 units, Linf; a part below 1 is lost in 8 bits")


class EvaluateConfig(Section):
    epsilons: list[Epsilon] = Field([0.5, 1, 2, 4, 8], min_length=1, description="threats, 0-255 units, Linf")
    suite: str = Field("quick", description="which of the suites below attacks the models")
    suites: dict[str, dict[str, EvaluationAttack]] = Field(
        {"quick": _budgets(fgsm=(1, 1), pgd=(20, 1)),
         "standard": _STANDARD,
         "adaptive": _STANDARD | _budgets(eot=(25, 1))},
        description="named sets of attacks with their budgets"
    )
    only_robust: list[str] = Field(
        ["standard", "adaptive"],
        description="suites whose attacks run in order, each only on the crops that those before have not settled"
    )
    eot_samples: int = Field(8, ge=1, description="random views of an image in one step of eot")
    headline: tuple[str, Epsilon] = Field(
        ("worst", 0.5), description="attack (worst: the worst of all, image by image) and epsilon of the report's first line"
    )
    gates: GatesConfig = GatesConfig()
    corruptions: CorruptionsConfig = CorruptionsConfig()
    codec: CodecConfig = CodecConfig()
    whole_video: WholeVideoConfig = WholeVideoConfig()
    universal: UniversalConfig = UniversalConfig()
    smoothing: SmoothingConfig = SmoothingConfig()
    export: ExportConfig = ExportConfig()
    checkpoints: dict[Name, str] = resource({}, description="more models by name: folders with model.safetensors + card.json")
    models: dict[Name, AuditedModelConfig] = resource({}, description="models of other origin by name, see docs/audit.md")
    images: str | None = resource(None, description="a folder of face crops (real/, fake/) to evaluate on instead of videos; null: the run's")
    frames_per_video: int | None = Field(None, ge=1, description="at most so many test crops a video; null: all")
    block_size: int = Field(64, ge=1, description="crops of one block of work")
    batch_size: int = Field(32, ge=1, description="crops attacked at once")
    bootstrap: int = Field(1000, ge=10, description="resamples of the identities for the 95 % intervals")
    gallery: int = Field(6, ge=0, description="faces in the strip clean / perturbed / difference")
    cpus_per_task: float = resource(1, gt=0, description="CPUs of one block of work")
    gpus_per_task: float = resource(0, ge=0, description="GPU share of one block of work; 0: CPU")

    @property
    def attacks(self) -> dict[str, EvaluationAttack]:
        """Of the chosen suite."""
        return self.suites[self.suite]

    @property
    def sequential(self) -> bool:
        """Whether its attacks run only on what is still robust; see robust/evaluation/sequence.py."""
        return self.suite in self.only_robust


class DetectConfig(Section):
    checkpoint: str | None = resource(None, description="a folder with model.safetensors + card.json; null: the run's")
    input: str | None = resource(None, description="a video, an image or a folder of them; jobs.detect_many: a folder or bucket prefix")
    output: str = resource("outputs/detect", description="folder for verdicts.json and the pictures")
    frames: int = resource(20, ge=1, description="frames of a video")
    threshold: float | None = resource(None, description="logit; null: the card's (FPR 1 % on clean validation)")
    videos_per_shard: int = resource(512, ge=1, description="jobs.detect_many: videos of one Parquet shard of verdicts; a task is a part of it, so best a power of two")
    actor_cpus: float = resource(1, gt=0, description="CPUs of one of its actors (face detector and model); as many threads")
    actor_gpus: float = resource(0, ge=0, description="GPU share of one of its actors; 0: CPU")
    actors: int | None = resource(None, ge=1, description="its actors; null: as many as the cluster has room for")


class Config(Section):
    run: Run = Run()
    storage: StorageConfig = StorageConfig()
    cluster: ClusterConfig = ClusterConfig()
    data: DataConfig = DataConfig()
    extract: ExtractConfig = ExtractConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    tune: TuneConfig = TuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    detect: DetectConfig = DetectConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        _refuse_credentials(self)
        if self.evaluate.suite not in self.evaluate.suites:
            raise ValueError(f"evaluate.suite: {self.evaluate.suite!r} is not one of {', '.join(self.evaluate.suites)}")
        if unknown := set(self.evaluate.only_robust) - self.evaluate.suites.keys() - {"standard", "adaptive"}:
            raise ValueError(f"evaluate.only_robust: {min(unknown)!r} is not one of {', '.join(self.evaluate.suites)}")
        (attack, epsilon), attacks = self.evaluate.headline, self.evaluate.attacks
        if attack not in {*attacks, "worst"} or epsilon not in self.evaluate.epsilons:
            raise ValueError(
                f"evaluate.headline: {attack} at epsilon {epsilon:g} is not among the attacks of evaluate.suite x evaluate.epsilons"
            )
        if epsilon == 0:
            raise ValueError(f"evaluate.headline: {attack} at epsilon 0 is no attack; name one of evaluate.epsilons above 0")
        for name, part in (("whole_video", self.evaluate.whole_video), ("universal", self.evaluate.universal)):
            if part.enabled and (others := set(part.epsilons or ()) - set(self.evaluate.epsilons)):
                raise ValueError(f"evaluate.{name}.epsilons: {min(others):g} is not among evaluate.epsilons, which it is compared at")
        if lacking := set(self.evaluate.codec.attacks or ()) - set(attacks):
            raise ValueError(f"evaluate.codec.attacks: {min(lacking)} is not in evaluate.suites.{self.evaluate.suite}, whose budget it has")
        if self.evaluate.codec.enabled and self.extract.align:
            raise ValueError("evaluate.codec.enabled: it cuts faces out as they lie in the frame, so extract.align must be false")
        folds, fold = self.data.splits.folds, self.data.splits.fold
        if folds is not None and fold >= folds:
            raise ValueError(f"data.splits.fold: {fold} is not below data.splits.folds = {folds}")
        if self.data.demo.enabled and not self.data.datasets:
            raise ValueError("data.demo.enabled: data.datasets[0] must say where the demo data goes")
        if self.data.demo.photographs is not None and (folds is not None or not self.data.splits.official_test):
            raise ValueError("data.demo.photographs: its people are for training alone, so data.splits.official_test must be true and data.splits.folds null")
        if self.train.batch_size % self.train.workers:
            raise ValueError(
                f"train.batch_size: {self.train.batch_size} is not a multiple of train.workers = {self.train.workers}; "
                "every worker takes an equal part of a batch"
            )
        if (self.train.least_workers or 1) > self.train.workers:
            raise ValueError(f"train.least_workers: {self.train.least_workers} is more than train.workers = {self.train.workers}")
        if self.train.self_blend.share > 0 and not self.train.balance:
            raise ValueError(f"train.self_blend.share: {self.train.self_blend.share:g} is a share of the fake half of a batch, so train.balance must be true")
        if self.train.accumulate > self.train.batch_size // self.train.workers:
            raise ValueError(f"train.accumulate: {self.train.accumulate} parts are more than the crops of a worker, train.batch_size / train.workers")
        _require_ranges(self)
        return self


def _refuse_credentials(config: Config) -> None:
    """Raises: ValueError: an address with a user, a password or a signature in it, which would be kept with the run."""
    def check(key: str, node: Any) -> None:
        if isinstance(node, str) and holds_credentials(node):
            raise ValueError(f"{key}: the address holds credentials; give them in the environment, a profile or a role")
        parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for name, part in parts:
            check(f"{key}.{name}".lstrip("."), part)

    check("", config.model_dump(mode="json"))


def _require_ranges(config: Config) -> None:
    """Raises: ValueError: a pair that is no range, or a log-uniform range that begins at 0."""
    ranges = {
        "augment.jpeg_quality": (config.augment.jpeg_quality, 1),
        "augment.noise_std": (config.augment.noise_std, 0),
        "tune.epsilon": (config.tune.epsilon, 1e-6),
        "tune.lipschitz_weight": (config.tune.lipschitz_weight, 1e-12),
    }
    if config.tune.step_size is not None:
        ranges["tune.step_size"] = (config.tune.step_size, 1e-3)
    for key, ((low, high), least) in ranges.items():
        if low == high >= 0:
            continue  # a fixed value, 0 among them
        if not least <= low <= high:
            raise ValueError(f"{key}: [{low:g}, {high:g}]: must be [low, high] with {least:g} <= low <= high")
    if config.augment.blur_kernel % 2 == 0:
        raise ValueError(f"augment.blur_kernel: {config.augment.blur_kernel}: must be odd")
