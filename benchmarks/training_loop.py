"""The training loop beside the least it could do: the same net, stepping on one batch that is already there.

1 would mean that picking pictures, converting them to Lab and keeping the mean cost nothing.
"""

import torch
import torch.nn.functional as F
from _ratio import measure

from colorize_utils.data import load_images
from colorize_utils.lab import to_network
from colorize_utils.training import plain_step, train_epoch
from colorize_utils.unet import UNet


def measure_loop(name: str, goal: float, pictures, batch_size: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = UNet(base_width=16).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    L, ab = to_network(pictures[:batch_size].to(device))

    def loop():
        train_epoch(model, pictures, optimizer, batch_size=batch_size)

    def one_batch():
        model.train()
        for _ in range(len(pictures) // batch_size):
            error = plain_step(model, L, ab, F.mse_loss, optimizer)
        error.item()

    measure(name, goal, ours=loop, theirs=one_batch, rounds=9)


if __name__ == "__main__":
    measure_loop("training_loop", 0.95, load_images("sample").train[: 20 * 64], 64)
