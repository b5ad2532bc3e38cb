"""The training loop beside the least it could do: the same net, stepping on one batch that is already there.

1 would mean that picking pictures, converting them to Lab and keeping the mean cost nothing.
"""

import torch
import torch.nn.functional as F
from _ratio import measure

from colorize_utils.data import load_images
from colorize_utils.lab import to_network
from colorize_utils.training import train_epoch
from colorize_utils.unet import UNet

BATCH, STEPS = 64, 20


if __name__ == "__main__":
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pictures = load_images("sample").train[: BATCH * STEPS]
    torch.manual_seed(0)
    model = UNet(base_width=16).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    L, ab = to_network(pictures[:BATCH].to(device))

    def loop():
        train_epoch(model, pictures, optimizer, F.mse_loss, BATCH, torch.Generator().manual_seed(0))

    def one_batch():
        model.train()
        for _ in range(STEPS):
            optimizer.zero_grad()
            error = F.mse_loss(model(L), ab)
            error.backward()
            optimizer.step()
        error.item()

    measure("training_loop", 0.95, ours=loop, theirs=one_batch, rounds=9)
