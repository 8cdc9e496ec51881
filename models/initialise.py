"""How the networks' weights start (published code)."""

from torch import nn


def initialise(network: nn.Module) -> None:
    """Convolutions: He's normal distribution by the outputs; linear layers: Glorot's, biases zero. In place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            nn.init.zeros_(module.bias)
