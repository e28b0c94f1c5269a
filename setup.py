"""What pyproject.toml cannot say: where there is a C compiler, a wheel contains the compiled launcher."""

import functools
import logging
import os
import runpy
import shutil
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
FOLDER = tempfile.TemporaryDirectory()


@functools.cache
def compiled() -> Path | None:
    """The launcher, or None where it cannot be compiled."""
    target = Path(FOLDER.name, "launcher")
    reason = runpy.run_path(str(HERE / "bgpcni/launcher/build.py"))["compile_launcher"](target)
    if reason:
        logging.getLogger(__name__).warning("the launcher will not be in this wheel: %s", reason)
        return None
    return target


class WithLauncher(Distribution):
    def has_ext_modules(self) -> bool:
        """Whether the wheel is for one platform."""
        return compiled() is not None


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        launcher = compiled()
        if launcher and not self.editable_mode:  # from a checkout the installer compiles what is there then
            shutil.copy(launcher, Path(self.build_lib, "bgpcni/launcher/launcher"))


class BdistWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        """Any Python 3 and no ABI: the launcher does not link to Python."""
        _, _, platform = super().get_tag()
        return "py3", "none", os.environ.get("BGPCNI_WHEEL_PLATFORM", platform)  # which a cross-compiler is for


setup(distclass=WithLauncher, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel})
