// Browsers ignore `autofocus` when the address names a part of the page, as it does after a wrong token.
document.getElementById("token").focus();
