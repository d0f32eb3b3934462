"""Text-based person retrieval with CFFA on the Hugging Face stack."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor, CLIPProcessor

from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.errors import InputError
from cffa_hf.modeling_cffa import CFFAForPreTraining, CFFAModel, CFFAOutput
from cffa_hf.version import VERSION

__version__ = VERSION

AutoConfig.register(CFFAConfig.model_type, CFFAConfig)
AutoModel.register(CFFAConfig, CFFAModel)
AutoModelForPreTraining.register(CFFAConfig, CFFAForPreTraining)
AutoProcessor.register(CFFAConfig, CLIPProcessor)

__all__ = ["CFFAConfig", "CFFAForPreTraining", "CFFAModel", "CFFAOutput", "InputError", "__version__"]
