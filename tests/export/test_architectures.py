import pytest

from pc_engine.errors import UsageError
from pc_engine.export import ARCHITECTURES
from pc_engine.export.architectures import find_architecture


def test_architecture_is_looked_up_by_name():
    assert find_architecture("vgg19", ARCHITECTURES).name == "vgg19"
    with pytest.raises(UsageError, match="no architecture 'vgg15': choose one of vgg11, vgg13, vgg16, vgg19"):
        find_architecture("vgg15", ARCHITECTURES)
