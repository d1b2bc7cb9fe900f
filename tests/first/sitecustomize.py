"""Has the processes that tests start do without what Keras imports wherever it is installed, which
takes as long as all else that they import."""

import sys

sys.modules.update(dict.fromkeys(("matplotlib", "pandas", "sklearn")))
