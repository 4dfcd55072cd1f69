"""A miniature package ``mdistiller`` with upstream's interface, written into a folder: methods, settings, trainer, script."""

from __future__ import annotations

import sys
from pathlib import Path

FILES = {
    "mdistiller/__init__.py": "",
    "mdistiller/distillers/__init__.py": """
from .plain import Plain
from .kd import KD
from .fork import Fork
from .memory import Memory
from .views import Views

distiller_dict = {"NONE": Plain, "KD": KD, "MYFORK": Fork, "MEMORY": Memory, "VIEWS": Views}
""",
    "mdistiller/distillers/_base.py": """
from torch import nn


class Distiller(nn.Module):
    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def train(self, mode=True):
        self.training = mode
        for child in self.children():
            child.train(mode)
        self.teacher.eval()
        return self

    def get_learnable_parameters(self):
        return list(self.student.parameters())

    def get_extra_parameters(self):
        return 0

    def forward(self, **batch):
        return self.forward_train(**batch) if self.training else self.student(batch["image"])[0]
""",
    "mdistiller/distillers/plain.py": """
from torch import nn
from torch.nn import functional as F


class Plain(nn.Module):
    def __init__(self, student):
        super().__init__()
        self.student = student

    def get_learnable_parameters(self):
        return list(self.student.parameters())

    def forward_train(self, image, target, **kwargs):
        logits, _ = self.student(image)
        return logits, {"ce": F.cross_entropy(logits, target)}
""",
    "mdistiller/distillers/kd.py": """
import torch
from torch.nn import functional as F

from ._base import Distiller


class KD(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.t, self.ce, self.kd = cfg.KD.TEMPERATURE, cfg.KD.LOSS.CE_WEIGHT, cfg.KD.LOSS.KD_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits, _ = self.student(image)
        with torch.no_grad():
            wanted, _ = self.teacher(image)
        soft = F.kl_div(F.log_softmax(logits / self.t, 1), F.softmax(wanted / self.t, 1), reduction="batchmean")
        return logits, {"loss_ce": self.ce * F.cross_entropy(logits, target), "loss_kd": self.kd * self.t**2 * soft}
""",
    # What makes a class hard to keep: a layer in a list, a tensor without a name, a counter, a shape of (1,), random numbers.
    "mdistiller/distillers/fork.py": """
import torch
from torch import nn
from torch.nn import functional as F

from ._base import Distiller


class Fork(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.weight = cfg.MYFORK.WEIGHT
        with torch.no_grad():
            width = self.student(torch.randn(1, 3, 32, 32))[1]["pooled_feat"].shape[1]
            target = self.teacher(torch.randn(1, 3, 32, 32))[1]["pooled_feat"].shape[1]
        self.scale = [nn.Parameter(torch.ones(1))]
        self.layer = nn.Linear(width, target)
        self.mean = torch.zeros(target)
        self.calls = 0

    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + list(self.layer.parameters()) + self.scale

    def forward_train(self, image, target, epoch, **kwargs):
        logits, features = self.student(image.cuda())
        with torch.no_grad():
            wanted = self.teacher(image)[1]["pooled_feat"]
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * wanted.mean(0)
        self.last = wanted.mean()
        noise = 0.01 * torch.randn_like(wanted)
        own = self.scale[0] * self.layer(features["pooled_feat"])
        distance = F.mse_loss(own + noise, wanted - self.mean) / (1 + 0.1 * self.calls) * min(epoch / 2, 1.0)
        return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_fork": (self.weight * distance).reshape(1)}
""",
    "mdistiller/distillers/memory.py": """
import torch
from torch.nn import functional as F

from ._base import Distiller


class Memory(Distiller):
    def __init__(self, student, teacher, cfg, num_data):
        super().__init__(student, teacher)
        self.register_buffer("memory", torch.rand(num_data, 4))
        self.register_buffer("z", torch.tensor(-1.0))

    def train(self, mode=True):
        for child in self.children():
            child.train(mode)
        self.training = mode
        return self

    def forward_train(self, image, target, index, contrastive_index, **kwargs):
        logits, features = self.student(image)
        with torch.no_grad():
            self.teacher(image)
        scores = self.memory[contrastive_index] @ features["pooled_feat"][:, :4, None]
        if self.z.item() < 0:
            self.z.copy_(scores.detach().mean().abs() + 1)
        self.memory.index_copy_(0, index, features["pooled_feat"][:, :4].detach())
        return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_kd": (scores / self.z).square().mean()}
""",
    "mdistiller/distillers/views.py": """
from torch.nn import functional as F

from ._base import Distiller


class Views(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)

    def forward_train(self, image_weak, image_strong, target, **kwargs):
        weak, strong = self.student(image_weak)[0], self.student(image_strong)[0]
        return weak, {"loss_task": F.cross_entropy(weak, target), "loss_kd": F.mse_loss(strong, weak.detach())}
""",
    "mdistiller/engine/__init__.py": """
from .trainer import BaseTrainer

trainer_dict = {"base": BaseTrainer}
""",
    "mdistiller/engine/cfg.py": """
from yacs.config import CfgNode as Node

CFG = Node({
    "EXPERIMENT": {"PROJECT": "distill", "NAME": "", "TAG": "default", "LOGIT_STAND": False},
    "DATASET": {"TYPE": "cifar100", "NUM_WORKERS": 2, "TEST": {"BATCH_SIZE": 64}},
    "DISTILLER": {"TYPE": "NONE", "TEACHER": "ResNet50", "STUDENT": "resnet32"},
    "SOLVER": {
        "TRAINER": "base", "BATCH_SIZE": 64, "EPOCHS": 240, "LR": 0.05, "LR_DECAY_STAGES": [150, 180, 210],
        "LR_DECAY_RATE": 0.1, "WEIGHT_DECAY": 0.0001, "MOMENTUM": 0.9, "TYPE": "SGD",
    },
    "LOG": {"SAVE_CHECKPOINT_FREQ": 40, "PREFIX": "./output", "WANDB": False},
    "KD": {"TEMPERATURE": 4, "LOSS": {"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9}},
    "MYFORK": {"WEIGHT": 0.5, "SIZE": (32, 32)},
    "CRD": {"MODE": "exact", "NCE": {"K": 8}},
})
""",
    "mdistiller/engine/utils.py": """
class AverageMeter:
    def __init__(self):
        self.sum = self.count = self.avg = 0

    def update(self, value, n=1):
        self.sum, self.count = self.sum + value * n, self.count + n
        self.avg = self.sum / self.count


def adjust_learning_rate(epoch, cfg, optimizer):
    for group in optimizer.param_groups:
        group["lr"] = cfg.SOLVER.LR * cfg.SOLVER.LR_DECAY_RATE ** sum(epoch > stage for stage in cfg.SOLVER.LR_DECAY_STAGES)
""",
    "mdistiller/engine/trainer.py": """
from collections import defaultdict

import torch

from .utils import AverageMeter, adjust_learning_rate


class BaseTrainer:
    def __init__(self, experiment_name, distiller, train_loader, val_loader, cfg):
        self.cfg, self.distiller, self.train_loader, self.val_loader = cfg, distiller, train_loader, val_loader
        self.optimizer = self.init_optimizer(cfg)

    def init_optimizer(self, cfg):
        parameters = self.distiller.module.get_learnable_parameters()
        return torch.optim.SGD(
            parameters, lr=cfg.SOLVER.LR, momentum=cfg.SOLVER.MOMENTUM, weight_decay=cfg.SOLVER.WEIGHT_DECAY
        )

    def train(self, resume=False):
        for epoch in range(1, self.cfg.SOLVER.EPOCHS + 1):
            adjust_learning_rate(epoch, self.cfg, self.optimizer)
            meters = defaultdict(AverageMeter)
            self.distiller.train()
            for data in self.train_loader:
                message = self.train_iter(data, epoch, meters)
            print(message)

    def train_iter(self, data, epoch, train_meters):
        image, target, index = data[:3]
        self.optimizer.zero_grad()
        logits, losses = self.distiller(image=image.float().cuda(), target=target.cuda(), epoch=epoch)
        loss = sum(value.mean() for value in losses.values())
        loss.backward()
        self.optimizer.step()
        train_meters["losses"].update(float(loss.detach()), len(target))
        return f"{', '.join(losses)}: {train_meters['losses'].avg:.6f}"
""",
    "mdistiller/models/__init__.py": """
cifar_model_dict = {}
""",
    "tools/train.py": """
import argparse

import torch
from torch.utils.data import DataLoader, Dataset

from mdistiller.distillers import distiller_dict
from mdistiller.engine import trainer_dict
from mdistiller.engine.cfg import CFG as cfg
from mdistiller_ext.models import create_model


class Noise(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(32, 3, 32, 32, generator=generator)
        self.targets = [each % 4 for each in range(32)]

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return self.images[index], self.targets[index], index


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg", default="")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.cfg:
        cfg.merge_from_file(arguments.cfg)
    cfg.merge_from_list(arguments.opts)
    cfg.freeze()
    torch.manual_seed(0)
    student, teacher = (create_model(name) for name in (cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER))
    distiller = torch.nn.DataParallel(distiller_dict[cfg.DISTILLER.TYPE](student, teacher, cfg).cuda())
    print("extra parameters:", distiller.module.get_extra_parameters())
    loader = DataLoader(Noise(), batch_size=16)
    trainer_dict[cfg.SOLVER.TRAINER]("x", distiller, loader, loader, cfg).train()
    weight = sum(float(p.detach().double().square().sum()) for p in distiller.module.student.parameters())
    print(f"weights {weight:.9f}")
""",
    "configs/my.yaml": """
EXPERIMENT: {TAG: my}
DISTILLER: {TYPE: MYFORK}
MYFORK: {WEIGHT: 2.0}
SOLVER: {TRAINER: base, LR: 0.02}
""",
}


def write_upstream(folder: Path, **changed: str) -> Path:
    """Write the package into ``folder``, and return it.

    Args:
        changed: content of methods by the name of their file, such as ``kd``.
    """
    for name, content in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(changed.get(file.stem, content) if file.parent.name == "distillers" else content)
    return folder


def forget_upstream() -> None:
    """Take the package out of what Python has imported."""
    for name in [name for name in sys.modules if name.split(".")[0] == "mdistiller"]:
        del sys.modules[name]
