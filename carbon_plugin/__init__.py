"""Energy and carbon of distributed training: forecast before launch, measured during the run, audited after it."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a source checkout `integrations/` and `hardware_profiles/` live beside this package; in an installed
# wheel they are sub-packages of it and this does nothing.
_here = _Path(__file__).resolve().parent
if not (_here / "integrations").is_dir() and (_here.parent / "integrations" / "__init__.py").is_file():
    __path__.append(str(_here.parent))
