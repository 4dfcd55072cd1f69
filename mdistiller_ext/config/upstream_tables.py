"""Tables of mdistiller's dialects: names of methods, settings and teachers that the upstream repositories use."""

# Methods of those repositories that this project does not have, as their configurations spell them.
OTHER_METHODS = frozenset(
    [
        "ADKD",
        "DIST_GDKD",
        "DKDMOD",
        "DKDMod",
        "DKD_aug",
        "GDKDAUTOK",
        "GDKDAutoW",
        "GDKDAutok",
        "LS_GDKD",
        "REVIEWKD_GDKD",
        "SGDKD",
        "SKD",
    ]
)

# Methods that the repositories of their papers call otherwise.
METHODS = {"KD_ours": "MLKD", "CAT_KD": "CATKD", "CAT-KD": "CATKD", "SimKD": "SIMKD"}

# Methods with two views of an image.
TWO_VIEWS = ("MLKD", "CRLD")

# Trainers of those repositories that differ from one of this project only in what they pass to the method.
POSITIONS = "CRD gets the positions of the images from every trainer"
VIEWS = "MLKD and CRLD get their second, strongly augmented view from every trainer"
TRAINERS = {"crd": ("base", POSITIONS), "crd_dot": ("dot", POSITIONS), "aug": ("base", VIEWS), "crld": ("base", VIEWS)}

RENAMED = {
    "SOLVER.LR_MIN": "SOLVER.MIN_LR",
    "SOLVER.SGD_NESTEROV": "SOLVER.NESTEROV",
    "SOLVER.DKDOT.DELTA_TASK": "SOLVER.DEEPKD.DELTA_TOG",
    "SOLVER.DKDOT.DELTA_TCKD": "SOLVER.DEEPKD.DELTA_TCG",
    "SOLVER.DKDOT.DELTA_NCKD": "SOLVER.DEEPKD.DELTA_NCG",
    "SOLVER.DKDOT.DKD": "SOLVER.DEEPKD.DKD",
    "SOLVER.DKDOT.TOPK": "SOLVER.DEEPKD.TOPK",
    "DISTILLER.TEACHER_WEIGHTS": "DISTILLER.TEACHER_CKPT",
    "CAT_KD.IF_NORMALIZE": "CATKD.IF_NORMALIZE",
    "CAT_KD.LOSS.CAM_RESOLUTION": "CATKD.LOSS.CAM_RESOLUTION",
    "CAT_KD.LOSS.CAT_loss_weight": "CATKD.LOSS.CAT_LOSS_WEIGHT",
    "CAT_KD.LOSS.CE_WEIGHT": "CATKD.LOSS.CE_WEIGHT",
}

# KD's settings that the MLKD of the DeepKD and LSKD repositories reads, and MLKD's of the same meaning.
KD_SETTINGS_OF_MLKD = {
    "KD.TEMPERATURE": "MLKD.TEMPERATURE",
    "KD.LOSS.CE_WEIGHT": "MLKD.CE_WEIGHT",
    "KD.LOSS.KD_WEIGHT": "MLKD.KD_WEIGHT",
}

# Settings without an equivalent, and why.
MEANINGLESS = {
    "LOG.TENSORBOARD_FREQ": "scalars are written once an epoch",
    "LOG.WANDB_MODEL_LOG": "weights are not sent to W&B",
    "LOG.WANDB_MODEL_LOG_FREQ": "weights are not sent to W&B",
    "LOG.ENABLE_PROGRESS_BAR": "there is one where the output is a terminal",
    "SOLVER.DEEPKD.CE_WEIGHT": "DeepKD's release reads it nowhere; the method's CE_WEIGHT counts",
    "SOLVER.DEEPKD.TOPK": "the mask is DISTILLER.TYPE DEEPKD's (DEEPKD.K_STATIC, DEEPKD.DTM)",
    "SOLVER.DEEPKD.DKD": "DISTILLER.TYPE says it",
    "SOLVER.DEEPKD.ALPHA": "DKD.ALPHA counts",
    "SOLVER.DEEPKD.BETA": "DKD.BETA counts",
    "SOLVER.DEEPKD.WARMUP_FACTOR": "DKD.WARMUP counts",
    **dict.fromkeys(
        [
            "CRD.FEAT.STUDENT_DIM",
            "CRD.FEAT.TEACHER_DIM",
            "FITNET.INPUT_SIZE",
            "REVIEWKD.IN_CHANNELS",
            "REVIEWKD.OUT_CHANNELS",
            "REVIEWKD.OUT_SHAPES",
            "REVIEWKD.SHAPES",
            "VID.INPUT_SIZE",
        ],
        "it is derived from the networks' features",
    ),
    "device": "the environment variable CUDA_VISIBLE_DEVICES chooses a GPU",
    "if_test": "CATKD converts the networks itself",
}

# Experiments of CAT-KD's repository that are not here: what their switches turn on.
SWITCHES = {
    "CAT_KD.IF_BINARIZE": "the transfer of binarised class activation maps",
    "CAT_KD.IF_OnlyTransferPartialCAMs": "the transfer of some classes' activation maps",
    "DATASET.REDUCTION": "training on a part of each class",
}

# Where GDKD's repository keeps the teachers that were trained with strong augmentation, by data set.
AUG_TEACHERS = {
    "cifar100": "download_ckpts/cifar_teachers/{model}_aug/ckpt_epoch_240.pth",
    **{
        name: f"download_ckpts/{name.replace('-', '_')}_teachers/{{lower}}/student_100_aug.pth"
        for name in ("cub2011", "dtd", "food101", "tiny-imagenet")
    },
}

# Settings any of which determines the teacher's weights.
TEACHER_SETTINGS = frozenset(["DISTILLER.AUG_TEACHER", "DISTILLER.TEACHER_CKPT", "DISTILLER.TEACHER_WEIGHTS"])

# Beginnings of the settings that only DeepKD's release has, and the names of its trainer there.
DEEPKD_SETTINGS = ("SOLVER.DKDOT.", "SOLVER.DEEPKD.DKD", "SOLVER.DEEPKD.TOPK", "SOLVER.DEEPKD.CE_WEIGHT")
DEEPKD_TRAINERS = ("deepkd", "ours", "dkdot", "deepkd_aug")
DEEPKD_GROUPS = ("SOLVER.DKDOT.", "SOLVER.DEEPKD.")
DKD_WEIGHTS = {"ALPHA": 1.0, "BETA": 8.0, "WARMUP_FACTOR": 20}  # of SOLVER.DEEPKD, with the release's defaults
DKD_FLAGS = ("SOLVER.DEEPKD.DKD", "SOLVER.DKDOT.DKD")
TOPK_SETTINGS = ("SOLVER.DEEPKD.TOPK", "SOLVER.DKDOT.TOPK")
