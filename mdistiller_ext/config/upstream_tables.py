"""Tables of mdistiller's dialects: names of methods, settings and teachers that the upstream repositories use."""

# Methods of those repositories that this project does not have, as their configurations spell them.
OTHER_METHODS = frozenset(
    [
        "ADKD",
        "AT",
        "CRD",
        "CRLD",
        "DIST_GDKD",
        "DKDMOD",
        "DKDMod",
        "DKD_aug",
        "FITNET",
        "GDKDAUTOK",
        "GDKDAutoW",
        "GDKDAutok",
        "KDSVD",
        "KD_ours",
        "LS_GDKD",
        "MLKD",
        "NST",
        "OFD",
        "PKT",
        "REVIEWKD",
        "REVIEWKD_GDKD",
        "RKD",
        "SGDKD",
        "SKD",
        "SP",
        "VID",
    ]
)

RENAMED = {
    "SOLVER.LR_MIN": "SOLVER.MIN_LR",
    "SOLVER.SGD_NESTEROV": "SOLVER.NESTEROV",
    "SOLVER.DKDOT.DELTA_TASK": "SOLVER.DEEPKD.DELTA_TOG",
    "SOLVER.DKDOT.DELTA_TCKD": "SOLVER.DEEPKD.DELTA_TCG",
    "SOLVER.DKDOT.DELTA_NCKD": "SOLVER.DEEPKD.DELTA_NCG",
    "SOLVER.DKDOT.DKD": "SOLVER.DEEPKD.DKD",
    "SOLVER.DKDOT.TOPK": "SOLVER.DEEPKD.TOPK",
    "DISTILLER.TEACHER_WEIGHTS": "DISTILLER.TEACHER_CKPT",
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
DKD_FLAGS = ("SOLVER.DEEPKD.DKD", "SOLVER.DKDOT.DKD")
TOPK_SETTINGS = ("SOLVER.DEEPKD.TOPK", "SOLVER.DKDOT.TOPK")
